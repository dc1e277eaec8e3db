"""Learning curves of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.visualization.figures import save_figure

LINES = 10  # lines of classes that get a color and a name each; more are gray
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
DECADES = 20  # losses whose largest is so many times the smallest are drawn on a logarithmic scale


def draw_curves(
    entries: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    monitor: str = "mean_iou",
    best_epoch: int | None = None,
) -> Path:
    """Write losses, validation scores and learning rate by epoch, as far as log.jsonl has them,
    with the best epoch marked.

    Args:
        entries: lines of a run's log.jsonl; scores that are null or NaN leave gaps.
        path: PNG file.
        monitor: the score that selected the best weights; drawn in black.
        best_epoch: the epoch of the best weights.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs, steps = [e for e in entries if "train" in e], [e for e in entries if "lr" in e]
    last = max([e["epoch"] for e in epochs], default=1)
    figure = Figure(figsize=(15 if steps else 10, 4), layout="constrained")
    axes = figure.subplots(1, 3 if steps else 2)
    _draw_losses(axes[0], epochs, steps)
    _draw_scores(axes[1], [e for e in epochs if e.get("val")], monitor)
    if steps:
        _draw_rates(axes[2], epochs, steps)
    for axis in axes:
        if best_epoch is not None and any("val" in e for e in epochs):
            axis.axvline(
                best_epoch,
                color="0.3",
                linestyle="--",
                linewidth=1,
                label=f"best: epoch {best_epoch}",
            )
        axis.set(xlabel="epoch", xlim=(-0.02 * last, 1.02 * last))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, ncols=2 if len(axis.get_legend_handles_labels()[0]) > 7 else 1)
    return save_figure(figure, path)


def _draw_losses(
    axis: Any, epochs: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]
) -> None:
    """The training loss, that of single steps behind it, and each loss that validation logged."""
    x = [e["epoch"] for e in epochs]
    if steps:
        axis.plot(
            _in_epochs(steps, epochs),
            [number(e.get("loss")) for e in steps],
            color="0.8",
            linewidth=0.8,
            label="of a step",
        )
    series = {"training": [number(e["train"].get("loss")) for e in epochs]}
    names = dict.fromkeys(key for e in epochs for key in e.get("val", {}) if "loss" in key)
    for name in names:
        series["validation" if name == "loss" else name] = [
            number(e.get("val", {}).get(name)) for e in epochs
        ]
    for (label, values), color in zip(series.items(), COLORS, strict=False):
        seen = np.isfinite(values)
        axis.plot(np.array(x)[seen], np.array(values)[seen], marker=".", color=color, label=label)
    axis.set_title("loss")
    if _spans_decades(value for line in axis.lines for value in line.get_ydata()):
        axis.set_yscale("log")


def _draw_scores(axis: Any, measured: Sequence[Mapping[str, Any]], monitor: str) -> None:
    """The monitored score in black; per-class IoU, or the other scores of the validation, beside
    it.
    """
    axis.set_title("validation scores" if measured else "no validation split")
    if not measured:
        axis.set_ylim(0, 1)
        return
    x = [e["epoch"] for e in measured]
    lines = _other_scores(measured, monitor)
    for place, (label, values) in enumerate(lines.items()):
        many = len(lines) > LINES
        name = label if not many else None if place else f"each of {len(lines)} classes"
        axis.plot(
            x,
            values,
            linewidth=1,
            marker=".",
            markersize=3,
            color="0.7" if many else COLORS[place],
            label=name,
        )
    monitored = [number(e["val"].get(monitor)) for e in measured]
    axis.plot(x, monitored, color="black", marker=".", label=monitor)
    shown = [
        value for values in (*lines.values(), monitored) for value in values if np.isfinite(value)
    ]
    if not shown or (min(shown) >= 0 and max(shown) <= 1):
        axis.set_ylim(-0.02, 1.02)


def _other_scores(measured: Sequence[Mapping[str, Any]], monitor: str) -> dict[str, list[float]]:
    """IoU of each class; without it the plain scores that lie in [0, 1], as the monitored one
    does.
    """
    classes = dict.fromkeys(label for e in measured for label in e["val"].get("iou") or ())
    if classes:
        return {
            f"IoU {label}".replace("$", r"\$"): [
                number((e["val"].get("iou") or {}).get(label)) for e in measured
            ]
            for label in classes
        }
    names = dict.fromkeys(
        key for e in measured for key in e["val"] if key != monitor and "loss" not in key
    )
    lines = {name: [number(e["val"].get(name)) for e in measured] for name in names}
    return {
        name: values
        for name, values in lines.items()
        if all(0 <= value <= 1 for value in values if value == value)
        and any(v == v for v in values)
    }


def _draw_rates(
    axis: Any, epochs: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]
) -> None:
    """The learning rate at every logged step, of every group where there are several."""
    x = _in_epochs(steps, epochs)
    groups = dict.fromkeys(name for e in steps for name in _rates(e["lr"]))
    for place, name in enumerate(groups):
        axis.plot(
            x,
            [number(_rates(e["lr"]).get(name)) for e in steps],
            color=COLORS[place % len(COLORS)],
            label=name or None,
        )
    axis.set_title("learning rate")
    axis.ticklabel_format(axis="y", scilimits=(-2, 3))


def _in_epochs(
    steps: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Where the steps lie on an axis of epochs; those of an epoch that has no end yet at its
    beginning.
    """
    known = [(0, 0), *((e["step"], e["epoch"]) for e in epochs)]
    return np.interp([e["step"] for e in steps], *zip(*known, strict=True))


def _rates(value: Any) -> Mapping[str, float]:
    """Learning rates by the name of their group; the name of a single one is empty."""
    if isinstance(value, Mapping):
        return value
    return (
        {str(i): rate for i, rate in enumerate(value)} if isinstance(value, list) else {"": value}
    )


def _spans_decades(values: Iterable[float]) -> bool:
    finite = [value for value in values if np.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > DECADES * min(finite)


def number(value: Any) -> float:
    """A number of a log; NaN for null, for text, and for what is missing."""
    return float(value) if isinstance(value, (int, float)) else float("nan")
