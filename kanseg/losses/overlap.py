"""Overlap losses: Tversky, and its special cases Dice and Jaccard.

    TP_c = sum_i p_ic t_ic      FP_c = sum_i p_ic (1 - t_ic)      FN_c = sum_i (1 - p_ic) t_ic

with sums over all valid pixels of the batch (symbols as in `kanseg.losses.inputs`). A class without
a pixel in the batch costs 0, and the mean is over all classes. The values are those of
segmentation_models.pytorch, whose losses do not support class weights and ignored pixels in all
tasks, and whose focal Tversky loss has an infinite slope at 0.
"""

from __future__ import annotations

from torch import Tensor

from kanseg.losses.inputs import LOSSES, LossInputs


@LOSSES.register("dice")
def dice(inputs: LossInputs, *, smooth: float = 0.0) -> Tensor:
    """Dice loss, mean_c 1 - 2 TP / (2 TP + FP + FN).

    Args:
        inputs: the batch.
        smooth: added to TP and to the denominator, to smooth the loss of small classes.
    """
    return tversky(inputs, alpha=0.5, beta=0.5, smooth=smooth)


@LOSSES.register("jaccard")
def jaccard(inputs: LossInputs, *, smooth: float = 0.0) -> Tensor:
    """Jaccard loss, mean_c 1 - TP / (TP + FP + FN); arguments as of `dice`."""
    return tversky(inputs, alpha=1.0, beta=1.0, smooth=smooth)


@LOSSES.register("tversky")
def tversky(
    inputs: LossInputs,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    smooth: float = 0.0,
) -> Tensor:
    """Tversky loss, mean_c (1 - TP / (TP + alpha FP + beta FN))^gamma (Salehi et al. 2017).

    Args:
        inputs: the batch.
        alpha: weight of false positives.
        beta: weight of false negatives.
        gamma: exponent of the focal Tversky loss, such as 0.75 (1 / gamma in Abraham & Khan 2019).
        smooth: added to TP and to the denominator.
    """
    over_pixels = (0, 2, 3)
    p, t = inputs.probabilities, inputs.one_hot
    present = t.sum(over_pixels)
    tp = (p * t).sum(over_pixels)
    fp = p.sum(over_pixels) - tp
    fn = present - tp
    denominator = (tp + alpha * fp + beta * fn + smooth).clamp_min(1e-7)
    loss = 1 - (tp + smooth) / denominator
    if gamma != 1:
        loss = loss.clamp_min(1e-7) ** gamma  # the power has an infinite slope at 0
    return inputs.mean_over_classes(loss * (present > 0))
