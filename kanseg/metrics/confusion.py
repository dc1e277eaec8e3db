"""Pixel counts, and the scores that follow from them alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kanseg.data.label_spec import IGNORE_INDEX

SCORES = ("iou", "dice", "precision", "recall", "specificity")


def confusion_matrices(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Pixel counts per image, truth by rows; 255 in the target is left out.

    Args:
        predicted, target: (B, H, W) class indices, or of a multilabel task (B, N, H, W) of 0 and 1.
        num_classes: N.

    Returns:
        (B, N, N) int64, or of a multilabel task (B, N, 2, 2): each class by itself.
    """
    multilabel, kinds = target.ndim == 4, 2 if target.ndim == 4 else num_classes
    counted = target != IGNORE_INDEX
    matrices = len(target) * (num_classes if multilabel else 1)
    number = (
        torch.arange(matrices, device=target.device)
        .view(*target.shape[:-2], 1, 1)
        .expand_as(target)
    )
    code = (number * kinds + target) * kinds + predicted
    counts = torch.bincount(code[counted], minlength=matrices * kinds**2)
    return counts.view(*target.shape[:-2], kinds, kinds)


def outcomes(matrix: np.ndarray, *, multilabel: bool = False) -> dict[str, np.ndarray]:
    """Confusion matrices (..., N, N), or of a multilabel task (..., N, 2, 2) -> tp, fp, fn, tn
    (..., N) int64.
    """
    if multilabel:
        return {
            "tp": matrix[..., 1, 1],
            "fp": matrix[..., 0, 1],
            "fn": matrix[..., 1, 0],
            "tn": matrix[..., 0, 0],
        }
    tp = np.diagonal(matrix, axis1=-2, axis2=-1)
    fp, fn = matrix.sum(axis=-2) - tp, matrix.sum(axis=-1) - tp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": matrix.sum(axis=(-2, -1))[..., None] - tp - fp - fn}


def scores(matrix: np.ndarray, *, multilabel: bool = False) -> dict[str, np.ndarray]:
    """Confusion matrices as of `outcomes` -> each of SCORES per class, (..., N); NaN where the
    denominator is 0.
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
    """The mean of those that are not NaN; NaN where there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
