"""The Lovasz extension of the Jaccard loss."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.losses.inputs import LOSSES, LossInputs


@LOSSES.register("lovasz")
def lovasz(inputs: LossInputs) -> Tensor:
    """Lovasz-Softmax loss, mean_c sum_k e_(k) g_k, where e_(k) are the errors |t_ic - p_ic| in
    descending order and g_k is what the k-th adds to the Jaccard loss (Berman et al. 2018).

    It extends the Jaccard loss of each class over the batch to errors between 0 and 1. Binary and
    multilabel tasks use the sigmoid of each class instead of the softmax. The mean is over the
    classes that occur in the batch.
    """
    target = _by_class(inputs.one_hot)
    valid = _by_class(inputs.valid.expand_as(inputs.one_hot))
    errors = (target - _by_class(inputs.probabilities)).abs()
    # Ignored pixels get an error of 0, which costs nothing and sorts last.
    errors = torch.where(valid, errors, 0.0)
    errors, order = errors.sort(dim=1, descending=True)
    loss = (errors * jaccard_slope(target.gather(1, order) > 0)).sum(dim=1)
    return inputs.mean_over_classes(loss, used=target.sum(dim=1) > 0)


def jaccard_slope(target: Tensor) -> Tensor:
    """The increase of the Jaccard loss with each wrong pixel, (N, P) floats.

    These are the differences of 1 - I / U in closed form, without cancellation: 1 / U at a pixel of
    the class, I / (U (U - 1)) at others.

    Args:
        target: (N, P) bools, the pixels with the largest errors first.
    """
    present = target.sum(dim=1, keepdim=True)
    intersection = (present - target.cumsum(dim=1)).float()
    union = (present + (~target).cumsum(dim=1)).float()
    at_class = 1 / union.clamp_min(1)
    elsewhere = intersection / (union * (union - 1)).clamp_min(1)
    return torch.where(target, at_class, elsewhere)


def _by_class(values: Tensor) -> Tensor:
    """(B, N, H, W) -> (N, B*H*W)."""
    return values.transpose(0, 1).flatten(1)
