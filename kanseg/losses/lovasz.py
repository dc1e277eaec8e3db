"""The Lovasz extension of the Jaccard loss."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.losses.terms import LOSSES, Pixels


@LOSSES.register("lovasz")
def lovasz(pixels: Pixels) -> Tensor:
    """Lovasz-Softmax (Berman et al. 2018), over the batch: the Jaccard loss of each class, extended
    to errors |truth - p| between 0 and 1.

    Binary and multilabel tasks take the sigmoid of each class in the place of the softmax. The mean
    is over the classes that the batch has.
    """
    truth, counted = (
        _by_class(part) for part in (pixels.truth, pixels.counted.expand_as(pixels.truth))
    )
    # An error of 0 costs nothing and sorts last, so that ignored pixels change no other's part.
    errors = torch.where(counted, (truth - _by_class(pixels.probabilities)).abs(), 0.0)
    errors, order = errors.sort(dim=1, descending=True)
    values = (errors * jaccard_slope(truth.gather(1, order) > 0)).sum(dim=1)
    return pixels.mean_over_classes(values, used=truth.sum(dim=1) > 0)


def jaccard_slope(truth: Tensor) -> Tensor:
    """What each pixel adds to the Jaccard loss when those before it are wrong already: (N, P)
    bools, worst pixel first -> (N, P).

    The differences of 1 - I / U in closed form: 1 / U at a pixel of the class, I / (U (U - 1)) at
    another, without cancellation.
    """
    present = truth.sum(dim=1, keepdim=True)
    intersection = (present - truth.cumsum(dim=1)).float()
    union = (present + (~truth).cumsum(dim=1)).float()
    return torch.where(
        truth, 1 / union.clamp_min(1), intersection / (union * (union - 1)).clamp_min(1)
    )


def _by_class(values: Tensor) -> Tensor:
    """(B, N, H, W) -> (N, B*H*W)."""
    return values.transpose(0, 1).flatten(1)
