"""Losses that are means over pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.losses.terms import LOSSES, Pixels


@LOSSES.register("ce")
def cross_entropy(pixels: Pixels) -> Tensor:
    """Cross entropy over the classes; of binary and multilabel tasks the binary one. Mean over the
    pixels that count, weighted by class.
    """
    return pixels.mean_over_pixels(-pixels.log_likelihood)


@LOSSES.register("focal")
def focal(pixels: Pixels, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """-(1 - p)^gamma log p of the truth's probability p (Lin et al. 2017): pixels that are right
    already count less. Mean over pixels.

    Of a multiclass task p is that of the softmax. Classes may be weighted as in `cross_entropy`.

    Args:
        pixels: the batch.
        gamma: 0 is cross entropy.
        alpha: binary and multilabel tasks: weight of foreground pixels, 1 - alpha that of the
            others; null for equal ones.
    """
    # 1 - p without cancellation; a positive limit keeps the power's slope finite where gamma < 1.
    wrong = -torch.expm1(pixels.log_likelihood)
    values = -(wrong.clamp_min(1e-12) ** gamma) * pixels.log_likelihood
    if alpha is not None:
        values = values * torch.where(pixels.truth > 0, alpha, 1 - alpha)
    return pixels.mean_over_pixels(values)
