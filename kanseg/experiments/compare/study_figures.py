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
    sets = list(dict.fromkeys(row["set"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    step = 0.7 / len(variants)
    height = 1.4 + len(sets) * (0.3 + 0.2 * len(variants))
    figure = Figure(figsize=(8, height), layout="constrained")
    axis = figure.subplots()
    for number, variant in enumerate(variants):
        color = f"C{number}"
        label: str | None = variant
        for row in rows:
            if row["variant"] == variant:
                y = sets.index(row["set"]) - 0.35 + step * (number + 0.5)
                seeds = row["difference_by_seed"]
                axis.plot(seeds, [y] * len(seeds), ".", color=color, alpha=0.5, markersize=6)
                if len(seeds) >= FEW_SEEDS:
                    axis.hlines(y, row["over_both"]["low"], row["over_both"]["high"], color=color)
                axis.plot(row["difference"], y, "o", color=color, markersize=5, label=label)
                label = None  # one entry in the legend for each variant
    for y in range(1, len(sets)):
        axis.axhline(y - 0.5, color="tab:gray", linewidth=0.5, alpha=0.5)
    axis.axvline(0, color="black", linewidth=1)
    references = ", ".join(dict.fromkeys(str(row["against"]) for row in rows))
    axis.set(
        yticks=range(len(sets)),
        yticklabels=sets,
        ylim=(len(sets) - 0.5, -0.5),
        xlabel=f"score minus that of {references}: seeds (small dots), mean,"
        " 95 % over seeds and images",
        title=title,
    )
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)
