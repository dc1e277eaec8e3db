"""Accuracy, precision, recall, F1 and areas under the ROC curve of classified images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from kanseg.metrics.confusion import mean, scores
from kanseg.utils.errors import InputError
from kanseg.utils.tables import plain_table

TOP = 5


class Classified(NamedTuple):
    """The result of one image."""

    label: int
    predicted: int  # the class of the largest score, the first of equal ones
    rank: int  # of the label by its score, 0 for the largest
    probabilities: np.ndarray  # (N,) float32


class ClassificationMetrics:
    """Scores of a set of images; they do not depend on batches or order, since images are known
    by their numbers.

    A score that is not defined is NaN and left out of means: precision of a class that is never
    predicted, recall and area of a class without images; `absent` counts classes without
    images, `never_predicted` the former. top5 is NaN for fewer than 6 classes, where it would be
    1 or close to it whatever the network does.

    Args:
        classes: names, index 0 first.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = tuple(classes)
        self.per_image: dict[int, Classified] = {}

    def update(
        self,
        logits: Tensor,
        labels: Tensor,
        index: Sequence[int] | Tensor | None = None,
        *,
        probabilities: bool = False,
    ) -> None:
        """Add images.

        Args:
            logits: (B, N) raw logits, or probabilities.
            labels: (B,) class indices.
            index: numbers of the images; by default in the order they come.
            probabilities: whether `logits` are probabilities.

        Raises:
            InputError: scores that are not finite, labels that are no class, or shapes that do not
                fit.
        """
        values = logits.detach().cpu().double().numpy()
        truth = labels.detach().cpu().numpy()
        if index is None:
            index = range(len(self.per_image), len(self.per_image) + len(truth))
        numbers = [int(i) for i in index]
        count = len(self.classes)
        is_one_label_each = truth.ndim == 1 and len(numbers) == len(truth)
        if values.shape != (len(truth), count) or not is_one_label_each:
            raise InputError(
                f"expected scores (B, {count}), labels (B,) and B numbers, got {values.shape},"
                f" {truth.shape} and {len(numbers)}"
            )
        for number, row, label in zip(numbers, values, truth, strict=True):
            if not np.isfinite(row).all():
                raise InputError(
                    f"image {number}: the network's scores are not finite; train with a lower"
                    " training.lr or without half precision"
                )
            if not 0 <= label < count:
                raise InputError(
                    f"image {number}: label {label} is not a class from 0 to {count - 1}"
                )
            row_probabilities = row if probabilities else _softmax(row)
            self.per_image[number] = _classified(row, int(label), row_probabilities)

    def merge(self, other: Mapping[int, Classified]) -> None:
        """Add the images of another process, its `per_image`."""
        self.per_image.update(other)

    def compute(self) -> dict[str, Any]:
        """All scores as plain numbers.

        `top1`, `top5`: share of images whose label has the largest score, or one of the five
        largest; `mean_precision`, `mean_recall`, `mean_f1`: means over classes (macro);
        `micro_...`: over images; `auc_ovr`, `auc_ovo`: areas under the ROC curve, one class
        against the rest and against each other class, means over classes and over pairs of them;
        `classes`: precision, recall, f1, auc, support (images) and predicted (images) of each;
        `confusion`: (N, N) counts, truth by rows; `images`, `absent`, `never_predicted`: counts.
        """
        images = [self.per_image[number] for number in sorted(self.per_image)]
        count = len(self.classes)
        labels = np.array([image.label for image in images], dtype=np.int64)
        predicted = np.array([image.predicted for image in images], dtype=np.int64)
        ranks = np.array([image.rank for image in images], dtype=np.int64)
        probabilities = np.zeros((0, count), np.float32)
        if images:
            probabilities = np.stack([image.probabilities for image in images])
        matrix = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
        support, num_predicted = matrix.sum(axis=1), matrix.sum(axis=0)
        found, areas = scores(matrix), areas_under_roc(probabilities, labels)
        # Dice is F1 under another name.
        per_class = {
            "precision": found["precision"],
            "recall": found["recall"],
            "f1": found["dice"],
        }
        top1 = _mean(ranks == 0)
        result: dict[str, Any] = {"top1": top1, "top5": float("nan")}
        if count > TOP:
            result["top5"] = _mean(ranks < TOP)
        for name, values in per_class.items():
            result[f"mean_{name}"] = _mean(values)
        for name in per_class:
            # With one label an image each miss of one class is a false alarm of another.
            result[f"micro_{name}"] = top1
        result["auc_ovr"] = _mean(areas["ovr"])
        result["auc_ovo"] = _mean(areas["ovo"])
        result["images"] = len(images)
        result["absent"] = int((support == 0).sum())
        result["never_predicted"] = int((num_predicted == 0).sum())
        result["classes"] = {}
        for i, label in enumerate(self.classes):
            row: dict[str, Any] = {name: float(values[i]) for name, values in per_class.items()}
            row["auc"] = float(areas["ovr"][i])
            row["support"] = int(support[i])
            row["predicted"] = int(num_predicted[i])
            result["classes"][label] = row
        result["confusion"] = matrix.tolist()
        return result


def _classified(row: np.ndarray, label: int, probabilities: np.ndarray) -> Classified:
    # Ranks are those of the scores themselves: probabilities close to 1 would be equal.
    rank = int((row > row[label]).sum() + (row[:label] == row[label]).sum())
    return Classified(label, int(row.argmax()), rank, probabilities.astype(np.float32))


def _softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def areas_under_roc(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Areas under the ROC curve from (n, N) scores and (n,) labels, NaN where a class has no
    images.

    The area of a class against others is the probability that an image of it has a higher score of
    the class than one of the others, equal scores counting half (Hand and Till, Machine Learning
    45, 2001).

    Returns:
        "ovr": (N,) one class against the rest; "ovo": (N * (N - 1) / 2,) pairs, the mean of the
        areas by either one's score.
    """
    count = probabilities.shape[1]
    support = np.bincount(labels, minlength=count)
    against = np.full((count, count), np.nan)  # [a, b]: area of a against b by the score of a
    rest = np.full(count, np.nan)
    for a in range(count):
        column = probabilities[:, a]
        mine = np.sort(column[labels == a])
        if not len(mine):
            continue
        # for every image the share of images of a with a higher score
        below = (np.searchsorted(mine, column, "left") + np.searchsorted(mine, column, "right")) / 2
        above = 1 - below / len(mine)
        totals = np.bincount(labels, weights=above, minlength=count)
        others = np.arange(count) != a
        with np.errstate(invalid="ignore"):
            against[a] = totals / support
            rest[a] = totals[others].sum() / support[others].sum()
    first, second = np.triu_indices(count, 1)
    return {"ovr": rest, "ovo": (against[first, second] + against[second, first]) / 2}


def classification_table(result: Mapping[str, Any]) -> str:
    """The scores of `ClassificationMetrics.compute` as a text table."""
    names = ("precision", "recall", "f1", "auc")
    rows = [("", *names, "images")]
    rows += [
        (label, *(_show(values[name]) for name in names), str(values["support"]))
        for label, values in result["classes"].items()
    ]
    rows.append(
        (
            "mean",
            *(_show(result[f"mean_{name}"]) for name in names[:3]),
            _show(result["auc_ovr"]),
            str(result["images"]),
        )
    )
    rows.append(("micro", *(_show(result[f"micro_{name}"]) for name in names[:3]), "", ""))
    few = " (fewer than 6 classes)" if len(result["classes"]) <= TOP else ""
    areas = (
        f"auc: one against the rest {_show(result['auc_ovr'])}, one against one"
        f" {_show(result['auc_ovo'])}"
    )
    return "\n".join(
        [
            plain_table(rows[0], rows[1:]),
            f"top1 {_show(result['top1'])}  top5 {_show(result['top5'])}{few}  {areas}",
        ]
    )


def _mean(values: np.ndarray) -> float:
    """The mean of those that are not NaN; NaN where there is none."""
    return mean(values.astype(np.float64))


def _show(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
