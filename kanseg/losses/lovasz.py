"""The Lovasz extension of the Jaccard loss."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.losses.inputs import LOSSES, LossInputs


@LOSSES.register("lovasz")
def lovasz(inputs: LossInputs) -> Tensor:
    """Lovasz-Softmax: mean_c sum_k e_(k) g_k, e_(k) the errors |t_ic - p_ic| in falling order, g_k
    what the k-th adds to the Jaccard loss (Berman et al. 2018).

    It extends the Jaccard loss of each class over the batch to errors between 0 and 1. Binary and
    multilabel tasks take the sigmoid of each class in the place of the softmax. The mean is over
    the classes that the batch has.
    """
    target = _by_class(inputs.one_hot)
    valid = _by_class(inputs.valid.expand_as(inputs.one_hot))
    errors = (target - _by_class(inputs.probabilities)).abs()
    # An error of 0 costs nothing and sorts last, so that ignored pixels do not change the others.
    errors = torch.where(valid, errors, 0.0)
    errors, order = errors.sort(dim=1, descending=True)
    loss = (errors * jaccard_slope(target.gather(1, order) > 0)).sum(dim=1)
    return inputs.mean_over_classes(loss, used=target.sum(dim=1) > 0)


def jaccard_slope(target: Tensor) -> Tensor:
    """What each pixel adds to the Jaccard loss when those before it are wrong already: (N, P)
    bools, worst pixel first -> (N, P).

    The differences of 1 - I / U in closed form: 1 / U at a pixel of the class, I / (U (U - 1)) at
    another, without cancellation.
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
