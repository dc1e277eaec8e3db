"""The image of a pruning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanseg.visualization.figures import save_figure
from kanseg.visualization.fonts import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"contribution": "C0", "magnitude": "C1"}


def draw_curve(points: Sequence[Mapping[str, Any]], path: Path, score: str) -> Path:
    """Write `curve_figure` as PNG."""
    return save_figure(curve_figure(points, score), path)


def curve_figure(points: Sequence[Mapping[str, Any]], score: str) -> Figure:
    """Draw the score against parameters and against time: a color for each criterion, solid with
    fine-tuning and dashed without.

    Args:
        points: fields of `kanseg.explain.pruning.curve.Point`, the network itself first.
        score: its name.
    """
    from matplotlib.figure import Figure

    original, *pruned = points
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    axes = {"parameters": left, "relative_time": right}
    for quantity, axis in axes.items():
        for criterion in dict.fromkeys(point["criterion"] for point in pruned):
            chosen = [original, *(p for p in pruned if p["criterion"] == criterion)]
            chosen.sort(key=lambda point: -point[quantity])
            _draw_line(axis, chosen, quantity, criterion)
        axis.plot(original[quantity], original["score"], "ko", label=figure_text("not pruned"))
        axis.grid(alpha=0.3)
    left.set(xlabel=figure_text("parameters"), ylabel=score, xscale="log")
    right.set(xlabel=figure_text("time of an image, 1: not pruned"))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _draw_line(
    axis: Any, points: Sequence[Mapping[str, Any]], quantity: str, criterion: str
) -> None:
    """The points of a criterion, before and after fine-tuning."""
    x = [point[quantity] for point in points]
    color, name = COLORS.get(criterion), figure_text(criterion)
    axis.plot(x, [point["score"] for point in points], "--s", color=color, label=name, ms=4)
    if all(point["finetuned"] is None for point in points):
        return
    finetuned = []
    for point in points:
        finetuned.append(point["score"] if point["finetuned"] is None else point["finetuned"])
    label = figure_text("{criterion}, fine-tuned", criterion=name)
    axis.plot(x, finetuned, "-o", color=color, label=label, ms=4)
