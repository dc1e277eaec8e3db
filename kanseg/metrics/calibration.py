"""Calibration of probabilities: expected calibration error and Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.metrics.confusion import divide, mean

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Counts of one image, or their sum over several images. K is 1, or the number of classes of a
    multilabel task.

    Args:
        bins: (K, BINS, 3): number of pixels, sum of their confidences and number of correct ones,
            by confidence (above b / BINS, up to (b + 1) / BINS). The confidence of a pixel is its
            largest class probability (multilabel: the larger of p and 1 - p).
        brier: (K, 2): the sum over pixels of half the squared distance between probabilities and
            one-hot target, and the number of pixels.
    """

    bins: np.ndarray
    brier: np.ndarray

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.bins + other.bins, self.brier + other.brier)

    @property
    def errors(self) -> np.ndarray:
        """Expected calibration errors (K,): sum_b n_b / n |accuracy_b - confidence_b| over the bins
        (Guo et al. 2017).
        """
        pixels, confidence, correct = np.moveaxis(self.bins, -1, 0)
        return divide(np.abs(confidence - correct).sum(axis=-1), pixels.sum(axis=-1))

    @property
    def ece(self) -> float:
        """The mean of `errors`."""
        return mean(self.errors)

    @property
    def brier_score(self) -> float:
        """Brier score from 0 to 1, mean over K; for two classes equal to scikit-learn's."""
        return mean(divide(self.brier[..., 0], self.brier[..., 1]))


def calibrations(probabilities: Tensor, target: Tensor) -> list[Calibration]:
    """Count the confidences and errors of each image.

    Args:
        probabilities: (B, N, H, W) floats of all classes (a binary task has two).
        target: (B, H, W) class indices, or of a multilabel task (B, N, H, W) of 0 and 1; 255 =
            ignored.
    """
    if target.ndim == 4:
        confidence = torch.maximum(probabilities, 1 - probabilities)
        predicted = (probabilities > 0.5).long()
        distance = (probabilities - (target == 1).to(probabilities)) ** 2
    else:
        confidence, predicted = probabilities.max(dim=1, keepdim=True)
        target = target.unsqueeze(1)
        p_target = probabilities.gather(1, torch.where(target == IGNORE_INDEX, 0, target))
        # |p - one_hot|^2 = |p|^2 - 2 p_target + 1
        distance = ((probabilities**2).sum(dim=1, keepdim=True) - 2 * p_target + 1) / 2
    bins = (torch.ceil(confidence * BINS).long() - 1).clamp(0, BINS - 1)
    parts = (bins, confidence, predicted == target, distance, target != IGNORE_INDEX)
    arrays = [part.flatten(2).cpu().numpy() for part in parts]
    return [_count(*image) for image in zip(*arrays, strict=True)]


def image_calibration(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """Count the confidences and errors of n classified images: (n, N) probabilities, (n,) class
    indices. The result has one count per image in the place of pixels.
    """
    rows = np.arange(len(labels))
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    target = probabilities[rows, labels].astype(np.float64)
    squares = (probabilities.astype(np.float64) ** 2).sum(axis=1)
    distance = (squares - 2 * target + 1) / 2
    correct = probabilities.argmax(axis=1) == labels
    parts = (bins, confidence, correct, distance, np.ones(len(labels), bool))
    return _count(*(part[None] for part in parts))


def _count(
    bins: np.ndarray,
    confidence: np.ndarray,
    correct: np.ndarray,
    distance: np.ndarray,
    valid: np.ndarray,
) -> Calibration:
    """The counts of one image; the arguments are (K, P) for its P pixels."""
    counts = np.zeros((len(bins), BINS, 3))
    for k, used in enumerate(valid):
        used_bins = bins[k][used]
        counts[k, :, 0] = np.bincount(used_bins, minlength=BINS)
        counts[k, :, 1] = np.bincount(used_bins, confidence[k][used], minlength=BINS)
        counts[k, :, 2] = np.bincount(used_bins, correct[k][used], minlength=BINS)
    total_distance = (distance * valid).sum(axis=1, dtype=np.float64)
    return Calibration(counts, np.stack([total_distance, valid.sum(axis=1)], axis=1))
