"""Losses of overlap: Tversky and its special cases Dice and Jaccard.

Sums run over all pixels of the batch. A class without a pixel in the batch costs 0, and the mean is
over all classes, as in segmentation-models-pytorch, whose values these are (its own cannot weigh or
ignore in all tasks, and its focal Tversky loss has no finite slope at 0).
"""

from __future__ import annotations

from torch import Tensor

from kanseg.losses.terms import LOSSES, Pixels


@LOSSES.register("dice")
def dice(pixels: Pixels, *, smooth: float = 0.0) -> Tensor:
    """1 - 2 TP / (2 TP + FP + FN) of the probabilities, mean over classes.

    Args:
        pixels: the batch.
        smooth: added to TP and to the sums, against jumps of small classes.
    """
    return tversky(pixels, alpha=0.5, beta=0.5, smooth=smooth)


@LOSSES.register("jaccard")
def jaccard(pixels: Pixels, *, smooth: float = 0.0) -> Tensor:
    """1 - TP / (TP + FP + FN) of the probabilities, mean over classes; `smooth` as of `dice`."""
    return tversky(pixels, alpha=1.0, beta=1.0, smooth=smooth)


@LOSSES.register("tversky")
def tversky(
    pixels: Pixels,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    smooth: float = 0.0,
) -> Tensor:
    """(1 - TP / (TP + alpha FP + beta FN))^gamma of the probabilities, mean over classes (Salehi et
    al. 2017).

    Args:
        pixels: the batch.
        alpha: weight of false positives.
        beta: weight of false negatives.
        gamma: exponent of the focal Tversky loss (Abraham & Khan 2019, there 1 / gamma), such as
            0.75.
        smooth: added to TP and to the sums.
    """
    over = (0, 2, 3)
    probabilities, truth = pixels.probabilities, pixels.truth
    hit, present = (probabilities * truth).sum(over), truth.sum(over)
    false_positive, false_negative = probabilities.sum(over) - hit, present - hit
    score = (hit + smooth) / (
        hit + alpha * false_positive + beta * false_negative + smooth
    ).clamp_min(1e-7)
    lost = 1 - score if gamma == 1 else (1 - score).clamp_min(1e-7) ** gamma
    return pixels.mean_over_classes(lost * (present > 0))
