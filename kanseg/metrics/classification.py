"""Accuracy, precision, recall, F1 and areas under the ROC curve of classified images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from kanseg.metrics.calibration import image_calibration
from kanseg.metrics.confusion import divide, mean, scores
from kanseg.utils.errors import InputError
from kanseg.utils.tables import plain_table

TOP = 5
SHOWN = 20  # classes, or pairs of classes, of a confusion matrix in text


class Classified(NamedTuple):
    """The result of one image."""

    label: int
    predicted: int  # the class of the largest score, the first of equal ones
    rank: int  # of the label by its score, 0 for the largest
    probabilities: np.ndarray  # (N,) float32


class ClassificationMetrics:
    """Scores of a set of images, independent of batch size and order.

    Undefined scores are NaN and left out of means: the precision of a class that is never predicted
    (`never_predicted` counts these), recall and area of a class without images (`absent`). top5 is
    NaN for fewer than 6 classes, where any network has about 1.

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
            index: number of each image; by default counted on.
            probabilities: whether `logits` are probabilities.

        Raises:
            InputError: scores that are not finite, labels out of range, or shapes that do not
                match.
        """
        values = logits.detach().cpu().double().numpy()
        target = labels.detach().cpu().numpy()
        if index is None:
            index = range(len(self.per_image), len(self.per_image) + len(target))
        numbers = [int(i) for i in index]
        count = len(self.classes)
        is_one_label_each = target.ndim == 1 and len(numbers) == len(target)
        if values.shape != (len(target), count) or not is_one_label_each:
            raise InputError(
                f"expected scores (B, {count}), labels (B,) and B numbers, got {values.shape},"
                f" {target.shape} and {len(numbers)}"
            )
        for number, row, label in zip(numbers, values, target, strict=True):
            if not np.isfinite(row).all():
                raise InputError(
                    f"image {number}: the network's scores are not finite; train with a lower"
                    " training.lr or without half precision"
                )
            if not 0 <= label < count:
                raise InputError(
                    f"image {number}: label {label} is not a class from 0 to {count - 1}"
                )
            # Rank by the scores, because several probabilities may round to 1.
            rank = int((row > row[label]).sum() + (row[:label] == row[label]).sum())
            predicted = int(row.argmax())
            if not probabilities:
                row = np.exp(row - row.max())
                row /= row.sum()
            row = row.astype(np.float32)
            self.per_image[number] = Classified(int(label), predicted, rank, row)

    def merge(self, other: Mapping[int, Classified]) -> None:
        """Add the images of another process, given by its `per_image`."""
        self.per_image.update(other)

    def compute(self) -> dict[str, Any]:
        """All scores as plain numbers.

        `top1`, `top5`: share of images whose label has the largest score, or one of the five
        largest; `mean_precision`, `mean_recall`, `mean_f1`: means over classes (macro);
        `micro_...`: over images; `auc_ovr`, `auc_ovo`: areas under the ROC curve, one class
        against the rest and against each other class, means over classes and over pairs of them;
        `calibration`: `ece` (expected calibration error) and `brier` (Brier score from 0 to 1);
        `classes`: precision, recall, f1, auc, support (images) and predicted (images) of each;
        `confusion`: (N, N) counts, target by rows; `images`, `absent`, `never_predicted`: counts.
        """
        images = [self.per_image[number] for number in sorted(self.per_image)]
        count = len(self.classes)
        table = np.zeros((len(images), 3), np.int64)
        probabilities = np.zeros((len(images), count), np.float32)
        for i, image in enumerate(images):
            table[i] = image.label, image.predicted, image.rank
            probabilities[i] = image.probabilities
        labels, predicted, ranks = table.T
        matrix = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
        areas = areas_under_roc(probabilities, labels)
        counted = confusion_scores(matrix, self.classes)
        result: dict[str, Any] = {"top1": counted["top1"], "top5": float("nan")}
        if count > TOP:
            result["top5"] = _mean(ranks < TOP)
        result["auc_ovr"] = _mean(areas["ovr"])
        result["auc_ovo"] = _mean(areas["ovo"])
        calibration = image_calibration(probabilities, labels)
        result["calibration"] = {"ece": calibration.ece, "brier": calibration.brier_score}
        for label, area in zip(self.classes, areas["ovr"], strict=True):
            counted["classes"][label]["auc"] = float(area)
        return result | counted


def confusion_scores(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """The scores of `ClassificationMetrics.compute` that follow from counts alone.

    Args:
        matrix: (N, N) counts of images, target by rows.
        classes: names, index 0 first.
    """
    support, num_predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    found = scores(matrix)
    # Dice is F1 under another name.
    per_class = {
        "precision": found["precision"],
        "recall": found["recall"],
        "f1": found["dice"],
    }
    top1 = float(divide(np.trace(matrix), matrix.sum()))
    result: dict[str, Any] = {"top1": top1}
    for name, values in per_class.items():
        result[f"mean_{name}"] = _mean(values)
    for name in per_class:
        # With one label per image, a false negative of a class is a false positive of another.
        result[f"micro_{name}"] = top1
    result["images"] = int(matrix.sum())
    result["absent"] = int((support == 0).sum())
    result["never_predicted"] = int((num_predicted == 0).sum())
    result["classes"] = {}
    for i, label in enumerate(classes):
        row: dict[str, Any] = {name: float(values[i]) for name, values in per_class.items()}
        row["support"] = int(support[i])
        row["predicted"] = int(num_predicted[i])
        result["classes"][label] = row
    result["confusion"] = matrix.tolist()
    return result


def areas_under_roc(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Areas under the ROC curve from (n, N) scores and (n,) labels; NaN for classes without images.

    The area of a class against others is the probability that an image of the class has a higher
    score for it than an image of the others; equal scores count half (Hand and Till, Machine
    Learning 45, 2001).

    Returns:
        "ovr": (N,) each class against the rest; "ovo": (N * (N - 1) / 2,) each pair of classes, the
        mean of the areas by the scores of both.
    """
    count = probabilities.shape[1]
    support = np.bincount(labels, minlength=count)
    against = np.full((count, count), np.nan)  # [a, b]: area of a against b by the score of a
    rest = np.full(count, np.nan)
    for a in range(count):
        column = probabilities[:, a]
        sorted_a = np.sort(column[labels == a])
        if not len(sorted_a):
            continue
        # For every image: the share of images of a with a higher score, equal ones count half.
        at_least = len(sorted_a) - np.searchsorted(sorted_a, column, "left")
        higher = len(sorted_a) - np.searchsorted(sorted_a, column, "right")
        above = (at_least + higher) / 2 / len(sorted_a)
        totals = np.bincount(labels, weights=above, minlength=count)
        others = np.arange(count) != a
        with np.errstate(invalid="ignore"):
            against[a] = totals / support
            rest[a] = totals[others].sum() / support[others].sum()
    first, second = np.triu_indices(count, 1)
    return {"ovr": rest, "ovo": (against[first, second] + against[second, first]) / 2}


def classification_table(result: Mapping[str, Any]) -> str:
    """Format the scores of `ClassificationMetrics.compute` as a text table."""
    rows = []
    for label, values in result["classes"].items():
        rows.append([label, *_cells(values, "precision", "recall", "f1", "auc"), values["support"]])
    macro = _cells(result, "mean_precision", "mean_recall", "mean_f1", "auc_ovr")
    micro = _cells(result, "micro_precision", "micro_recall", "micro_f1")
    rows.append(["mean", *macro, result["images"]])
    rows.append(["micro", *micro, "", ""])
    header = ("", "precision", "recall", "f1", "auc", "images")
    table = plain_table(header, [list(map(str, row)) for row in rows])

    top1, top5, ovr, ovo = _cells(result, "top1", "top5", "auc_ovr", "auc_ovo")
    (balanced,) = _cells(result, "mean_recall")
    if len(result["classes"]) <= TOP:
        top5 += " (fewer than 6 classes)"
    accuracy = f"accuracy {top1}  balanced accuracy {balanced}"
    if "calibration" in result:
        ece, brier = _cells(result["calibration"], "ece", "brier")
        accuracy += f"  calibration error {ece}  Brier score {brier}"
    ranked = f"top1 {top1}  top5 {top5}"
    areas = f"auc: one against the rest {ovr}, one against one {ovo}"
    return f"{table}\n{accuracy}\n{ranked}  {areas}"


def confusion_table(result: Mapping[str, Any]) -> str:
    """Format the confusion matrix of `ClassificationMetrics.compute` as text: target by rows; of
    more than 20 classes, the 20 pairs that are confused most.
    """
    names, matrix = list(result["classes"]), np.asarray(result["confusion"])
    if len(names) <= SHOWN:
        rows = [[name, *map(str, row)] for name, row in zip(names, matrix, strict=True)]
        return plain_table(["class \\ predicted", *names], rows)
    wrong = np.where(np.eye(len(names), dtype=bool), 0, matrix)
    rows = []
    for position in np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]:
        target, predicted = divmod(int(position), len(names))
        if wrong[target, predicted]:
            rows.append([names[target], names[predicted], str(wrong[target, predicted])])
    return plain_table(["class", "predicted as", "images"], rows, text_columns=2)


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there is none."""
    return mean(values.astype(np.float64))


def _cells(scores: Mapping[str, Any], *names: str) -> list[str]:
    """Format scores, with a dash for undefined ones."""
    cells = []
    for name in names:
        cells.append("-" if np.isnan(scores[name]) else f"{scores[name]:.4f}")
    return cells
