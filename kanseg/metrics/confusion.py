"""Confusion matrices, and the scores computed from them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kanseg.data.label_spec import IGNORE_INDEX

SCORES = ("iou", "dice", "precision", "recall", "specificity")


def confusion_matrices(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix of each image, target by rows; 255 in the target is left out.

    Args:
        predicted, target: (B, H, W) class indices, or of a multilabel task (B, N, H, W) of 0 and 1.
        num_classes: N.

    Returns:
        (B, N, N) int64, or of a multilabel task (B, N, 2, 2), a matrix per class.

    Raises:
        ValueError: other shapes, or a class index out of range at a pixel that is not left out.
    """
    if predicted.shape != target.shape:
        raise ValueError(
            f"predicted and target must have one shape, got {tuple(predicted.shape)} and"
            f" {tuple(target.shape)}"
        )
    valid = target != IGNORE_INDEX
    if target.ndim == 4:  # multilabel: a 2x2 matrix for each class
        shape, size = target.shape[:2], 2
    else:
        shape, size = target.shape[:1], num_classes
    is_outside = (predicted < 0) | (predicted >= size) | (target < 0) | (target >= size)
    if (is_outside & valid).any():
        raise ValueError(
            f"class indices must be from 0 to {size - 1} (255 in the target is left out), got"
            f" predictions up to {int(predicted.max())} and targets up to"
            f" {int(target[valid].max())}"
        )
    # Count (matrix, target, predicted) as one number.
    num_matrices = shape.numel()
    matrix = torch.arange(num_matrices, device=target.device).view(*shape, 1, 1).expand_as(target)
    code = (matrix * size + target) * size + predicted
    counts = torch.bincount(code[valid], minlength=num_matrices * size**2)
    return counts.view(*shape, size, size)


def outcomes(matrix: np.ndarray, *, multilabel: bool = False) -> dict[str, np.ndarray]:
    """Count true and false positives and negatives: tp, fp, fn, tn (..., N) int64.

    Args:
        matrix: (..., N, N), or of a multilabel task (..., N, 2, 2).
        multilabel: True for the latter.
    """
    if multilabel:
        return {
            "tp": matrix[..., 1, 1],
            "fp": matrix[..., 0, 1],
            "fn": matrix[..., 1, 0],
            "tn": matrix[..., 0, 0],
        }
    tp = np.diagonal(matrix, axis1=-2, axis2=-1)
    fp = matrix.sum(axis=-2) - tp
    fn = matrix.sum(axis=-1) - tp
    total = matrix.sum(axis=(-2, -1))[..., None]
    return {"tp": tp, "fp": fp, "fn": fn, "tn": total - tp - fp - fn}


def scores(matrix: np.ndarray, *, multilabel: bool = False) -> dict[str, np.ndarray]:
    """Compute each of SCORES per class, (..., N), from confusion matrices as of `outcomes`:

        iou = TP / (TP + FP + FN)       dice = 2 TP / (2 TP + FP + FN)
        precision = TP / (TP + FP)      recall = TP / (TP + FN)      specificity = TN / (TN + FP)

    NaN where the denominator is 0.
    """
    n = outcomes(matrix, multilabel=multilabel)
    tp, fp, fn, tn = n["tp"], n["fp"], n["fn"], n["tn"]
    return {
        "iou": divide(tp, tp + fp + fn),
        "dice": divide(2 * tp, 2 * tp + fp + fn),
        "precision": divide(tp, tp + fp),
        "recall": divide(tp, tp + fn),
        "specificity": divide(tn, tn + fp),
    }


def divide(top: np.ndarray | float, bottom: np.ndarray | float) -> np.ndarray:
    """The quotient as floats, NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(top, bottom)


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there is none."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return float("nan")
    return float(defined.mean())
