"""Whether probabilities are as often right as they say: expected calibration error and Brier
score.
"""

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
    """Counts of one image, or their sum over several. K is 1, or of a multilabel task the number
    of classes, each by itself.

    Args:
        bins: (K, BINS, 3): pixels, the sum of their confidences and the number of right ones, by
            confidence (k / BINS to (k + 1) / BINS, the upper limit included). The confidence of a
            pixel is the largest probability of its classes (multilabel: of there and not there).
        brier: (K, 2): the sum over pixels of half the squared distance between probabilities and
            truth, and the number of pixels.
    """

    bins: np.ndarray
    brier: np.ndarray

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.bins + other.bins, self.brier + other.brier)

    @property
    def errors(self) -> np.ndarray:
        """(K,) expected calibration errors (Guo et al. 2017): the mean over pixels of |share of
        right ones - mean confidence| of their bin.
        """
        return divide(
            np.abs(self.bins[..., 1] - self.bins[..., 2]).sum(axis=-1),
            self.bins[..., 0].sum(axis=-1),
        )

    @property
    def ece(self) -> float:
        """The mean of `errors`."""
        return mean(self.errors)

    @property
    def brier_score(self) -> float:
        """The Brier score, 0 to 1 (of two classes that of scikit-learn), mean over K."""
        return mean(divide(self.brier[..., 0], self.brier[..., 1]))


def calibrations(probabilities: Tensor, target: Tensor) -> list[Calibration]:
    """The counts of each image.

    Args:
        probabilities: (B, N, H, W) floats of all classes (a binary task has two).
        target: (B, H, W) class indices, or of a multilabel task (B, N, H, W) of 0 and 1; 255 =
            ignored.
    """
    if target.ndim == 4:
        confidence, decided = (
            torch.maximum(probabilities, 1 - probabilities),
            (probabilities > 0.5).long(),
        )
        distance = (probabilities - (target == 1).to(probabilities)) ** 2
    else:
        confidence, decided = probabilities.max(dim=1, keepdim=True)
        target = target.unsqueeze(1)
        of_truth = probabilities.gather(1, torch.where(target == IGNORE_INDEX, 0, target))
        # |p - e_t|^2 = |p|^2 - 2 p_t + 1
        distance = ((probabilities**2).sum(dim=1, keepdim=True) - 2 * of_truth + 1) / 2
    place = (torch.ceil(confidence * BINS).long() - 1).clamp(0, BINS - 1)
    columns = [
        part.flatten(2).cpu().numpy()
        for part in (place, confidence, decided == target, distance, target != IGNORE_INDEX)
    ]
    return [_count(*(column[i] for column in columns)) for i in range(len(target))]


def _count(
    place: np.ndarray,
    confidence: np.ndarray,
    right: np.ndarray,
    distance: np.ndarray,
    counted: np.ndarray,
) -> Calibration:
    """(K, P) each."""
    bins = np.zeros((len(place), BINS, 3))
    for k, used in enumerate(counted):
        for column, weights in enumerate((None, confidence[k][used], right[k][used])):
            bins[k, :, column] = np.bincount(place[k][used], weights, minlength=BINS)
    return Calibration(
        bins,
        np.stack([(distance * counted).sum(axis=1, dtype=np.float64), counted.sum(axis=1)], axis=1),
    )
