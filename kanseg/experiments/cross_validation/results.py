"""Sum up the runs of all folds: means over the folds, and scores over all images, each scored by
the network that was not trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.data.splits.record import read_record
from kanseg.inference.checkpoint import read_description
from kanseg.metrics import SegmentationMetrics
from kanseg.metrics.classification import confusion_scores
from kanseg.metrics.confusion import SCORES, mean
from kanseg.metrics.segmentation import FOREGROUND_SCORES, ImageCounts
from kanseg.metrics.surfaces import SURFACE_SCORES
from kanseg.utils.errors import InputError
from kanseg.utils.reading import parse_csv, read_json, read_text
from kanseg.utils.text import safe_cell

IMAGE_SCORES = (*SCORES, *SURFACE_SCORES, "boundary_iou")  # columns of scores_val.csv
Rows = list[dict[str, str]]  # of a scores_val.csv


@dataclass(frozen=True)
class FoldRun:
    """The finished run of a fold.

    Args:
        folder: of the run.
        metrics: content of its metrics.json.
        images: rows of its scores_val.csv; empty for a classifier.
    """

    folder: Path
    metrics: Mapping[str, Any]
    images: Rows


def read_fold(folder: Path) -> FoldRun:
    """Read the results of the finished run of a fold.

    Raises:
        InputError: they are damaged.
    """
    path = folder / "scores_val.csv"
    images: Rows = []
    if path.is_file():
        header, *lines = parse_csv(read_text(path), path)
        images = [dict(zip(header, line, strict=True)) for line in lines]
    return FoldRun(folder, read_json(folder / "metrics.json"), images)


def sum_up(runs: Sequence[FoldRun]) -> dict[str, Any]:
    """Sum up the runs of all folds, in the order of the folds.

    Returns:
        `folds`: number, folder, epoch of the weights and the scores on val and test of each;
        `over_folds`: for val and test the mean and standard deviation of each score, and the number
        of folds that have it; `out_of_fold`: scores over the images of all folds together;
        `warnings`.
    """
    folds = []
    for number, run in enumerate(runs):
        scores = {key: run.metrics[key] for key in ("val", "test") if key in run.metrics}
        fold = {"fold": number, "run": run.folder.name, **scores}
        folds.append(fold | {key: run.metrics[key] for key in ("best_epoch", "seconds")})
    over_folds = {}
    for split in ("val", "test"):
        if all(split in run.metrics for run in runs):
            over_folds[split] = spread([run.metrics[split] for run in runs])
    labels = read_description(runs[0].folder / "best")["labels"]
    if labels["task"] == "classification":
        scores = classified_out_of_fold(runs, labels["classes"])
    else:
        scores = segmented_out_of_fold(runs, labels["classes"], labels["task"])
    return {
        "folds": folds,
        "over_folds": over_folds,
        "out_of_fold": scores,
        "warnings": changes_between(runs),
    }


def spread(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation and number of folds of each score, in the nesting of the scores.

    Scores that a fold does not have (null) are left out of its mean. Counts and lists are left out.
    """
    result: dict[str, Any] = {}
    for name in scores[0]:
        values = [each.get(name) for each in scores]
        if all(isinstance(value, Mapping) for value in values):
            result[name] = spread(values)
            continue
        numbers = np.array([value for value in values if isinstance(value, float)])
        if all(value is None or isinstance(value, float) for value in values) and len(numbers):
            deviation = float("nan") if len(numbers) < 2 else float(numbers.std(ddof=1))
            result[name] = {
                "mean": float(numbers.mean()),
                "std": deviation,
                "folds": len(numbers),
            }
    return result


def segmented_out_of_fold(
    runs: Sequence[FoldRun], classes: Sequence[str], task: str
) -> dict[str, Any]:
    """Scores over the images of all folds, as `SegmentationMetrics.compute` returns them: from the
    pixels of all images together, and as means of the images' scores.

    Raises:
        InputError: a run without its scores_val.csv.
    """
    metrics = SegmentationMetrics(classes, task)
    for number, run in enumerate(runs):
        if not run.images:
            path = run.folder / "scores_val.csv"
            raise InputError(
                f"{path} is missing; `kanseg evaluate --checkpoint {run.folder} --split val --csv"
                f" {path}` writes it"
            )
        confusion = np.array(run.metrics["val"]["confusion"], dtype=np.int64)
        metrics.merge({number: ImageCounts(confusion)})  # of all images of the fold
    scores = metrics.compute()
    scores["images"] = sum(run.metrics["val"]["images"] for run in runs)
    for label, row in scores["classes"].items():
        row["absent"] = sum(run.metrics["val"]["classes"][label]["absent"] for run in runs)
    images = [image for run in runs for image in run.images]
    scores["per_image"] = _means_of_images(images, classes, metrics.foreground)
    return scores


def _means_of_images(
    images: Rows, classes: Sequence[str], foreground: Sequence[int]
) -> dict[str, Any]:
    """Means over the rows of the images: of each class, and of the means over the classes."""
    found: dict[str, Any] = {}
    by_class: dict[str, dict[str, float]] = {label: {} for label in classes}
    for name in IMAGE_SCORES:
        if f"mean/{name}" not in images[0]:
            continue
        found[f"mean_{name}"] = mean(_column(images, f"mean/{name}"))
        columns = []
        for label in classes:
            values = _column(images, f"{label}/{name}")
            by_class[label][name] = mean(values)
            columns.append(values)
        if name in FOREGROUND_SCORES:
            table = np.stack(columns, axis=1)[:, list(foreground)]
            found[f"foreground_{name}"] = mean(np.array([mean(row) for row in table]))
    return found | {"classes": by_class}


def _column(images: Rows, name: str) -> np.ndarray:
    """A column as numbers; NaN where it is empty, or the table has no such column."""
    return np.array([float(image.get(safe_cell(name)) or "nan") for image in images])


def classified_out_of_fold(runs: Sequence[FoldRun], classes: Sequence[str]) -> dict[str, Any]:
    """Scores over the images of all folds, from the sum of their confusion matrices.

    Areas under the ROC curve are left out: the probabilities of several networks have no common
    order.
    """
    matrix = np.sum([np.array(run.metrics["val"]["confusion"]) for run in runs], axis=0)
    scores = confusion_scores(matrix, classes)
    if all(run.metrics["val"]["top5"] is not None for run in runs):
        correct = sum(run.metrics["val"]["top5"] * run.metrics["val"]["images"] for run in runs)
        scores["top5"] = correct / scores["images"]
    return scores


def changes_between(runs: Sequence[FoldRun]) -> list[str]:
    """Warnings if the folds are not parts of the same images, because the data set was changed
    between their trainings.
    """
    pool: set[str] = set()
    scored: list[str] = []
    for run in runs:
        record = read_record(run.folder)
        if record is None:
            return [f"Warning: {run.folder} has no record of its images, so they are not verified."]
        scored += record.splits.get("val", {})
        pool.update(record.splits.get("train", {}), record.splits.get("val", {}))
    never = len(pool - set(scored))
    twice = len(scored) - len(set(scored))
    if not never and not twice:
        return []
    return [
        "Warning: the data set was changed between the folds:"
        f" {never} images are in no fold and have no score, {twice} are scored twice. Train all"
        " folds again with --overwrite."
    ]
