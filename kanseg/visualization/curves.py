"""Learning curves of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.visualization.figures import save_figure
from kanseg.visualization.fonts import figure_text

MAX_COLORED = 10  # classes that get a color and a name each; more are gray
COLORS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#8c6d31",
    "#5e3c99",
    "#b8b000",
    "#7f7f7f",
)  # after Okabe and Ito
LOG_SCALE = 20  # ratio of the largest to the smallest loss from which the scale is logarithmic
Entry = Mapping[str, Any]  # a line of log.jsonl


def draw_curves(
    entries: Sequence[Entry],
    path: Path,
    *,
    monitor: str = "foreground_iou",
    best_epoch: int | None = None,
) -> Path:
    """Draw losses, validation scores and learning rates by epoch, and mark the best epoch. Values
    that log.jsonl does not have are left out.

    Args:
        entries: lines of a run's log.jsonl; scores that are null or NaN leave gaps.
        path: PNG file.
        monitor: the score that selected the best weights; drawn in black.
        best_epoch: the epoch of the best weights.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [entry for entry in entries if "train" in entry]
    steps = [entry for entry in entries if "lr" in entry]
    last_epoch = max(_column(epochs, "epoch"), default=1)
    count = 3 if steps else 2
    figure = Figure(figsize=(5 * count, 4), layout="constrained")
    axes = figure.subplots(1, count)
    _draw_losses(axes[0], epochs, steps)
    _draw_scores(axes[1], [entry for entry in epochs if entry.get("val")], monitor)
    if steps:
        _draw_learning_rates(axes[2], epochs, steps)
    is_validated = any("val" in entry for entry in epochs)
    for axis in axes:
        if best_epoch is not None and is_validated:
            label = figure_text("best: epoch {epoch}", epoch=best_epoch)
            axis.axvline(best_epoch, color="0.3", linestyle="--", linewidth=1, label=label)
        axis.set(xlabel=figure_text("epoch"), xlim=(-0.02 * last_epoch, 1.02 * last_epoch))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        lines, _ = axis.get_legend_handles_labels()
        if lines:
            axis.legend(fontsize=7, ncols=2 if len(lines) > 7 else 1)
    return save_figure(figure, path)


def _draw_losses(axis: Any, epochs: Sequence[Entry], steps: Sequence[Entry]) -> None:
    """Plot the training loss by epoch and by step, and each validation loss."""
    if steps:
        x = _in_epochs(steps, epochs)
        losses = _column(steps, "loss")
        axis.plot(x, losses, color="0.8", linewidth=0.8, label=figure_text("of a step"))
    series = {figure_text("training"): _column([entry["train"] for entry in epochs], "loss")}
    validations = [entry.get("val", {}) for entry in epochs]
    for name in _names(validations):
        if "loss" in name:
            label = figure_text("validation") if name == "loss" else name
            series[label] = _column(validations, name)
    x = np.array(_column(epochs, "epoch"))
    for (label, values), color in zip(series.items(), COLORS, strict=False):
        known = np.isfinite(values)
        axis.plot(x[known], np.array(values)[known], marker=".", color=color, label=label)
    axis.set_title(figure_text("loss"))
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.lines])
    finite = drawn[np.isfinite(drawn)]
    if finite.size and finite.min() > 0 and finite.max() > LOG_SCALE * finite.min():
        axis.set_yscale("log")


def _draw_scores(axis: Any, measured: Sequence[Entry], monitor: str) -> None:
    """Plot the monitored score in black, and in color the IoU of each class or the other scores."""
    if not measured:
        axis.set_title(figure_text("no validation split"))
        axis.set_ylim(0, 1)
        return
    axis.set_title(figure_text("validation scores"))
    x = _column(measured, "epoch")
    validations = [entry["val"] for entry in measured]
    lines = _class_scores(validations) or _other_scores(validations, monitor)
    style = {"linewidth": 1, "marker": ".", "markersize": 3}
    if len(lines) <= MAX_COLORED:
        for (label, values), color in zip(lines.items(), COLORS, strict=False):
            axis.plot(x, values, color=color, label=label, **style)
    else:
        label: str | None = figure_text("each of {count} classes", count=len(lines))
        for values in lines.values():
            axis.plot(x, values, color="0.7", label=label, **style)
            label = None  # one entry in the legend for all
    monitored = _column(validations, monitor)
    axis.plot(x, monitored, color="black", marker=".", label=monitor)
    drawn = np.array([*lines.values(), monitored])
    finite = drawn[np.isfinite(drawn)]
    if not finite.size or (finite.min() >= 0 and finite.max() <= 1):
        axis.set_ylim(-0.02, 1.02)


def _class_scores(validations: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Label of a line -> the IoU of a class at each validation."""
    by_class = [scores.get("iou") or {} for scores in validations]
    lines = {}
    for name in _names(by_class):
        label = f"IoU {name}".replace("$", r"\$")
        lines[label] = _column(by_class, name)
    return lines


def _other_scores(validations: Sequence[Mapping[str, Any]], monitor: str) -> dict[str, list[float]]:
    """Name -> values of all scores in [0, 1], except the monitored one."""
    lines = {}
    for name in _names(validations):
        values = np.array(_column(validations, name))
        known = values[~np.isnan(values)]
        is_share = known.size and known.min() >= 0 and known.max() <= 1
        if is_share and name != monitor and "loss" not in name:
            lines[name] = values.tolist()
    return lines


def _draw_learning_rates(axis: Any, epochs: Sequence[Entry], steps: Sequence[Entry]) -> None:
    """Plot the learning rate of each parameter group at every logged step."""
    x = _in_epochs(steps, epochs)
    rates = [_by_group(entry["lr"]) for entry in steps]
    for name, color in zip(_names(rates), cycle(COLORS), strict=False):
        axis.plot(x, _column(rates, name), color=color, label=name or None)
    axis.set_title(figure_text("learning rate"))
    axis.ticklabel_format(axis="y", scilimits=(-2, 3))


def _by_group(value: Any) -> Mapping[str, float]:
    """Learning rates by the name of their group; the name of a single one is empty."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        return {str(number): rate for number, rate in enumerate(value)}
    return {"": value}


def _in_epochs(steps: Sequence[Entry], epochs: Sequence[Entry]) -> np.ndarray:
    """The epoch of each step, with fractions; the steps of an unfinished epoch are at its start."""
    last_steps = [0.0, *_column(epochs, "step")]
    numbers = [0.0, *_column(epochs, "epoch")]
    return np.interp(_column(steps, "step"), last_steps, numbers)


def _column(rows: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """The number under `name` in each row; NaN where there is none."""
    return [number(row.get(name)) for row in rows]


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys, in the order in which they first occur."""
    names: dict[str, None] = {}
    for mapping in mappings:
        names |= dict.fromkeys(mapping)
    return list(names)


def number(value: Any) -> float:
    """A value of the log as a float; NaN for null, text and missing values."""
    if isinstance(value, (int, float)):
        return float(value)
    return float("nan")
