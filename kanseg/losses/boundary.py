"""Boundary loss: it grows with the distance of an error from the true boundary."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kanseg.data.distances import distances
from kanseg.losses.inputs import LOSSES, LossInputs


@LOSSES.register("boundary")
def boundary(inputs: LossInputs) -> Tensor:
    """Boundary loss, mean_c mean_i D_ic |p_ic - t_ic|, where D is the distance in pixels to the
    nearest valid pixel on the other side of the boundary.

    It equals the loss of Kervadec et al. 2019 plus a constant (theirs is the mean of D p outside
    and -D p inside, with the same gradient), so that a perfect prediction costs 0. Classes that an
    image lacks, or that fill it, have no boundary and cost nothing: combine it with an overlap
    loss. Distances are computed for each batch by OpenCV on the CPU. They are tens of pixels, so a
    weight of about 0.01 is common.
    """
    over_pixels = (0, 2, 3)
    valid = inputs.valid.expand_as(inputs.one_hot)
    distance = distance_maps(inputs.one_hot > 0, valid).to(inputs.logits)
    error = (inputs.probabilities - inputs.one_hot).abs()
    num_pixels = valid.sum(over_pixels).clamp_min(1)
    return inputs.mean_over_classes((distance * error).sum(over_pixels) / num_pixels)


def distance_maps(target: Tensor, valid: Tensor) -> Tensor:
    """Distance in pixels of every valid pixel to the nearest valid pixel on the other side of the
    boundary; 0 at ignored pixels, and without another side.

    Args:
        target, valid: (B, N, H, W) bools.

    Returns:
        (B, N, H, W) float32 on the CPU.
    """
    inside = (target & valid).flatten(0, 1).cpu().numpy()
    outside = (~target & valid).flatten(0, 1).cpu().numpy()
    maps = np.zeros(inside.shape, np.float32)
    for here, there, result in zip(inside, outside, maps, strict=True):
        if here.any() and there.any():
            result[here] = distances(there)[here]
            result[there] = distances(here)[there]
    return torch.from_numpy(maps).view(target.shape)
