"""Tables of the scores of `SegmentationMetrics`, as text and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanseg.metrics.confusion import SCORES, mean
from kanseg.metrics.segmentation import SegmentationMetrics
from kanseg.utils.tables import csv_table, plain_table

PER_IMAGE = ("iou", "dice", "hd95", "nsd", "boundary_iou")


def table(result: Mapping[str, Any]) -> str:
    """Return the scores of `SegmentationMetrics.compute` as a text table, over the whole set and
    per image, followed by the scores that are not per class. The background comes last.
    """
    per_image = result["per_image"]
    shown = [name for name in PER_IMAGE if f"mean_{name}" in per_image]
    header = ["", *SCORES, *(f"{name}/image" for name in shown), "absent in"]
    rows = []
    background = result["background"]
    labels = sorted(result["classes"], key=lambda label: label == background)  # others in order
    for label in labels:
        scores = result["classes"][label]
        values = _values(scores, SCORES) + _values(per_image["classes"][label], shown)
        rows.append([label, *values, f"{scores['absent']}/{result['images']}"])
    means = _values(result, SCORES, prefix="mean_") + _values(per_image, shown, prefix="mean_")
    rows.append(["mean", *means, ""])
    if background is not None:
        rows[-1][0] = "mean of all"
    if background is not None and len(labels) > 2:
        rows.insert(-2, _foreground_row(result, shown))
    lines = [plain_table(header, rows)]
    if "calibration" in result:
        lines.append(
            f"calibration error {_show(result['calibration']['ece'])}, Brier score"
            f" {_show(result['calibration']['brier'])}"
        )
    if "u_kan" in result:
        u_kan = result["u_kan"]
        lines.append(
            f"U-KAN's protocol (mean over batches of {u_kan['batch_size']}): IoU"
            f" {_show(u_kan['iou'])}, Dice {_show(u_kan['dice'])}"
        )
    return "\n".join(lines)


def _foreground_row(result: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    """The row of the means without the background; blank for scores without such a mean."""
    row = ["mean of objects"]
    for scores, names in ((result, SCORES), (result["per_image"], shown)):
        for name in names:
            value = scores.get(f"foreground_{name}")
            row.append("" if value is None else _show(value))
    return [*row, ""]


def image_table(metrics: SegmentationMetrics, names: Sequence[str]) -> str:
    """Return a CSV table with a line per image: its name, the scores of each class (CLASS/iou,
    ...), their means over the classes (mean/iou, ...), ece and brier.

    Undefined scores are empty. There are no distances for the background.

    Args:
        metrics: the scores.
        names: of the images, by index.
    """
    scores, images = metrics.image_scores(), metrics.images
    columns: dict[str, Sequence[float]] = {}
    for index, label in enumerate(metrics.classes):
        for name, values in scores.items():
            if name in SCORES or index in metrics.foreground:
                columns[f"{label}/{name}"] = values[:, index]
    for name, values in scores.items():
        columns[f"mean/{name}"] = [mean(row) for row in values]
    calibrations = [image.calibration for image in images]
    if images and None not in calibrations:
        columns["ece"] = [calibration.ece for calibration in calibrations]
        columns["brier"] = [calibration.brier_score for calibration in calibrations]
    lines = []
    for row, index in enumerate(sorted(metrics.per_image)):
        line = [names[index]]
        for values in columns.values():
            text = ""
            if not np.isnan(values[row]):
                text = f"{values[row]:.6g}"
            line.append(text)
        lines.append(line)
    return csv_table(["name", *columns], lines)


def _values(scores: Mapping[str, Any], names: Sequence[str], prefix: str = "") -> list[str]:
    """Return the scores of these names, with a prefix, as text."""
    return [_show(scores[prefix + name]) for name in names]


def _show(value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.4f}"
