"""Pixel-wise losses (symbols as in `kanseg.losses.inputs`)."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.losses.inputs import LOSSES, LossInputs


@LOSSES.register("ce")
def cross_entropy(inputs: LossInputs) -> Tensor:
    """Cross entropy, -log p of the target's class, mean over valid pixels weighted by class. For
    binary and multilabel tasks it is the binary cross entropy of each class.
    """
    return inputs.mean_over_pixels(-inputs.log_likelihood)


@LOSSES.register("focal")
def focal(inputs: LossInputs, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss, -(1 - p)^gamma log p, where p is the probability of the target's class (Lin et
    al. 2017), mean over valid pixels weighted by class. Easy pixels count less.

    Args:
        inputs: the batch.
        gamma: focusing parameter; 0 is cross entropy.
        alpha: weight of the foreground in binary and multilabel tasks, 1 - alpha is that of the
            background; None for equal weights.
    """
    # 1 - p without cancellation; the lower limit keeps the slope of the power finite for gamma < 1.
    wrong = -torch.expm1(inputs.log_likelihood)
    loss = -(wrong.clamp_min(1e-12) ** gamma) * inputs.log_likelihood
    if alpha is not None:
        loss = loss * torch.where(inputs.one_hot > 0, alpha, 1 - alpha)
    return inputs.mean_over_pixels(loss)
