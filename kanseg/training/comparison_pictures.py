"""The pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kanseg.training.comparison_results import ArmScores, difference


def draw_comparison(arms: Mapping[str, ArmScores], control: str, path: Path, *, score: str) -> Path:
    """Left the mean over pictures of every seed; right how each test picture differs from the control, with the interval of the mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    others = [name for name in arms if name != control]
    names = [control, *others]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 1.6 + 0.55 * len(arms)), layout="constrained", width_ratios=(2, 3))
    for place, name in enumerate(names):
        seeds, colour = arms[name].by_seed, "tab:gray" if name == control else f"C{place - 1}"
        left.plot(seeds, [place] * len(seeds), "o", color=colour, alpha=0.6)
        left.plot([seeds.mean()], [place], "|", color="black", markersize=18, markeredgewidth=2)
    left.set(yticks=range(len(names)), yticklabels=names, xlabel=f"{score}, mean over pictures", title="every seed (dot) and their mean (bar)")
    spread = np.random.default_rng(0)
    for place, name in enumerate(others):
        found = difference(arms[name], arms[control])
        right.plot(found.values, place + spread.uniform(-0.18, 0.18, len(found.values)), ".", color=f"C{place}", alpha=0.4)
        right.plot([found.low, found.high], [place, place], color="black", linewidth=3)
        right.plot([found.mean], [place], "o", color="black", markersize=6)
    right.axvline(0, color="tab:gray", linewidth=1)
    right.set(yticks=range(len(others)), yticklabels=others, ylim=(-0.6, len(others) - 0.4), xlabel=f"{score} minus that of {control}")
    right.set_title("every test picture (dot), mean and its 95 % interval (black)")
    for axis in (left, right):
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)
    temporary.replace(path)
    return path
