"""Dice, IoU, precision and recall from confusion matrices: one over the whole set, and one a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kanseg.data.info import IGNORED

SCORES = ("iou", "dice", "precision", "recall")


def predicted_classes(logits: Tensor) -> Tensor:
    """Raw logits (B, N, H, W) -> class indices (B, H, W) int64: the largest of N, or the sign of one (binary)."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


def confusion_matrices(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Pixel counts per picture: (B, H, W) twice -> (B, N, N) int64, [b, i, j] = truth i predicted j; 255 is left out."""
    batch = len(target)
    valid = target != IGNORED
    picture = torch.arange(batch, device=target.device).view(-1, 1, 1).expand_as(target)
    code = (picture * num_classes + target) * num_classes + predicted
    return torch.bincount(code[valid], minlength=batch * num_classes**2).view(batch, num_classes, num_classes)


class SegmentationMetrics:
    """Scores of a set of pictures, from one confusion matrix a picture; they do not depend on batches or order.

    A score whose class occurs neither in truth nor in prediction (iou, dice), or whose denominator is empty (precision, recall), is
    NaN and left out of means; `absent` counts the pictures in which a class occurs in neither.

    Args:
        classes: names, index 0 first.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = tuple(classes)
        self.by_picture: dict[int, np.ndarray] = {}

    def update(self, predicted: Tensor, target: Tensor, indices: Sequence[int] | None = None) -> None:
        """Add pictures: (B, H, W) class indices twice; `indices` number the pictures (by default in the order they come)."""
        first = len(self.by_picture)
        matrices = confusion_matrices(predicted, target, len(self.classes)).cpu().numpy()
        for offset, matrix in enumerate(matrices):
            self.by_picture[first + offset if indices is None else int(indices[offset])] = matrix

    def merge(self, other: dict[int, np.ndarray]) -> None:
        """Add the matrices of another process."""
        self.by_picture.update(other)

    @property
    def matrices(self) -> np.ndarray:
        """(pictures, N, N) int64, in the order of their numbers."""
        shape = (0, len(self.classes), len(self.classes))
        return np.stack([self.by_picture[i] for i in sorted(self.by_picture)]) if self.by_picture else np.zeros(shape, np.int64)

    def compute(self) -> dict[str, object]:
        """All scores as plain numbers.

        `mean_iou`, ...: mean over classes of the score over the whole set; `classes`: the scores of each class, its pixels and the pictures
        without it; `per_image`: for each class the mean over pictures of the picture's score, and `mean_iou`, ...: the mean over
        pictures of the mean over its classes.
        """
        matrices = self.matrices
        whole = scores(matrices.sum(axis=0))
        single = scores(matrices)
        absent = np.isnan(single["iou"]).sum(axis=0)
        result: dict[str, object] = {f"mean_{name}": _mean(whole[name]) for name in SCORES}
        result["accuracy"] = _divide(np.trace(matrices.sum(axis=0)), matrices.sum())
        result["pictures"] = len(matrices)
        result["classes"] = {
            label: {name: float(whole[name][i]) for name in SCORES} | {"pixels": int(matrices[:, i].sum()), "absent": int(absent[i])}
            for i, label in enumerate(self.classes)
        }
        result["per_image"] = {f"mean_{name}": _mean(np.array([_mean(row) for row in single[name]])) for name in SCORES}
        result["per_image"]["classes"] = {label: {name: _mean(single[name][:, i]) for name in SCORES} for i, label in enumerate(self.classes)}
        return result


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Confusion matrices (..., N, N), truth by rows -> per class (..., N); NaN where the denominator is 0."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    truth, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    return {
        "iou": _divide(hit, truth + predicted - hit),
        "dice": _divide(2 * hit, truth + predicted),
        "precision": _divide(hit, predicted),
        "recall": _divide(hit, truth),
    }


def table(result: dict[str, object]) -> str:
    """The scores of `SegmentationMetrics.compute` as a text table, over the set and per picture."""
    rows = [("", *SCORES, *(f"{name}/image" for name in ("iou", "dice")), "absent in")]
    per_image = result["per_image"]
    for label, values in result["classes"].items():
        mine = per_image["classes"][label]
        rows.append((label, *(_show(values[n]) for n in SCORES), _show(mine["iou"]), _show(mine["dice"]), f"{values['absent']}/{result['pictures']}"))
    rows.append(("mean", *(_show(result[f"mean_{n}"]) for n in SCORES), _show(per_image["mean_iou"]), _show(per_image["mean_dice"]), ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows)


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray | float:
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient = np.true_divide(top, bottom)
    return float(quotient) if np.ndim(quotient) == 0 else quotient


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def _show(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
