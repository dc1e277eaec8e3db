"""Draw the figure of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanseg.experiments.compare.statistics import FEW_SEEDS
from kanseg.visualization.figures import save_figure


def draw_study(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> Path:
    """Draw the difference of each set and variant to its reference, with the differences of
    the single seeds, and the 95 % interval over both seeds and images where its table counts it.

    Args:
        rows: of `study_rows`; those without a difference are left out.
        path: of the PNG.
        title: above the figure.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if "difference" in row]
    by_set: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_set.setdefault(row["set"], []).append(row)
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines = len(rows) + len(by_set)  # an empty one below each set
    figure = Figure(figsize=(8, 1.2 + 0.2 * lines), layout="constrained")
    axis = figure.subplots()
    ticks = []
    y = 0
    for own in by_set.values():
        ticks.append(y + (len(own) - 1) / 2)
        for row in own:
            color = f"C{variants.index(row['variant'])}"
            seeds = row["difference_by_seed"]
            axis.plot(seeds, [y] * len(seeds), ".", color=color, alpha=0.5, markersize=6)
            if len(seeds) >= FEW_SEEDS:
                axis.hlines(y, row["over_both"]["low"], row["over_both"]["high"], color=color)
            axis.plot(row["difference"], y, "o", color=color, markersize=5)
            y += 1
        axis.axhline(y, color="tab:gray", linewidth=0.5, alpha=0.5)
        y += 1
    for number, variant in enumerate(variants):
        axis.plot([], [], "o", color=f"C{number}", markersize=5, label=variant)
    axis.axvline(0, color="black", linewidth=1)
    references = ", ".join(dict.fromkeys(str(row["against"]) for row in rows))
    axis.set(
        yticks=ticks,
        yticklabels=by_set,
        ylim=(y - 1, -1),
        xlabel=f"score minus that of {references}: seeds (small dots), mean,"
        " 95 % over seeds and images",
        title=title,
    )
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)
