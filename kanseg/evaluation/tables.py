"""The scores of `SegmentationMetrics` for people and spreadsheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanseg.metrics.confusion import SCORES, mean
from kanseg.metrics.segmentation import SegmentationMetrics
from kanseg.utils.tables import csv_table, plain_table

PER_IMAGE = ("iou", "dice", "hd95", "nsd", "boundary_iou")


def table(result: Mapping[str, Any]) -> str:
    """The scores of `SegmentationMetrics.compute` as a text table, over the set and per image;
    below it those that have no class.
    """
    per_image = result["per_image"]
    shown = [name for name in PER_IMAGE if f"mean_{name}" in per_image]
    rows = [("", *SCORES, *(f"{name}/image" for name in shown), "absent in")]
    for label, values in result["classes"].items():
        mine = per_image["classes"][label]
        rows.append(
            (
                label,
                *(_show(values[n]) for n in SCORES),
                *(_show(mine[n]) for n in shown),
                f"{values['absent']}/{result['images']}",
            )
        )
    rows.append(
        (
            "mean",
            *(_show(result[f"mean_{n}"]) for n in SCORES),
            *(_show(per_image[f"mean_{n}"]) for n in shown),
            "",
        )
    )
    return "\n".join([plain_table(rows[0], rows[1:]), *_notes(result)])


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = []
    if "calibration" in result:
        notes.append(
            f"calibration error {_show(result['calibration']['ece'])}, Brier score"
            f" {_show(result['calibration']['brier'])}"
        )
    if "u_kan" in result:
        mine = result["u_kan"]
        notes.append(
            f"U-KAN's protocol (mean over batches of {mine['batch_size']}): IoU"
            f" {_show(mine['iou'])}, Dice {_show(mine['dice'])}"
        )
    return notes


def image_table(metrics: SegmentationMetrics, names: Sequence[str]) -> str:
    """A CSV text with a line an image: name, CLASS/iou and so on for every class, mean/iou and so
    on over its classes, ece and brier.

    What is undefined is empty. Distances are left out for a background.

    Args:
        metrics: the images.
        names: of the images, by their numbers.
    """
    single, images = metrics.image_scores(), metrics.images
    columns: dict[str, np.ndarray] = {}
    for i, label in enumerate(metrics.classes):
        foreground = metrics.multilabel or i > 0
        columns |= {
            f"{label}/{name}": values[:, i]
            for name, values in single.items()
            if foreground or name in SCORES
        }
    columns |= {
        f"mean/{name}": np.array([mean(row) for row in values]) for name, values in single.items()
    }
    if images and all(p.calibration is not None for p in images):
        columns |= {
            "ece": np.array([p.calibration.ece for p in images]),
            "brier": np.array([p.calibration.brier_score for p in images]),
        }
    lines = []
    for row, index in enumerate(sorted(metrics.per_image)):
        line: list[str] = [names[index]]
        for values in columns.values():
            line.append("" if np.isnan(values[row]) else f"{values[row]:.6g}")
        lines.append(line)
    return csv_table(["name", *columns], lines)


def _show(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
