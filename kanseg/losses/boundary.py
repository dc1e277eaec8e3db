"""Boundary loss: it grows with the distance of an error from the true boundary."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kanseg.data.distances import distances
from kanseg.losses.inputs import LOSSES, LossInputs


@LOSSES.register("boundary")
def boundary(inputs: LossInputs) -> Tensor:
    """mean_c mean_i D_ic |p_ic - t_ic|, D the distance in pixels to the nearest valid pixel of the
    other side of the boundary.

    The boundary loss of Kervadec et al. 2019 plus a constant (theirs is the mean of D p outside and
    -D p inside, with the same gradient), which makes a perfect prediction cost 0. Classes that an
    image lacks, or that fill it, have no boundary and cost nothing: add it to an overlap loss.
    Distances are computed for each batch by OpenCV on the CPU; as they are tens of pixels, the
    usual weight of this loss is about 0.01.
    """
    over_pixels = (0, 2, 3)
    valid = inputs.valid.expand_as(inputs.one_hot)
    distance = distance_maps(inputs.one_hot > 0, valid).to(inputs.logits)
    error = (inputs.probabilities - inputs.one_hot).abs()
    num_pixels = valid.sum(over_pixels).clamp_min(1)
    return inputs.mean_over_classes((distance * error).sum(over_pixels) / num_pixels)


def distance_maps(target: Tensor, valid: Tensor) -> Tensor:
    """Distance of every valid pixel to the nearest valid one of the other side, in pixels; 0 at
    ignored ones and where there is no other side.

    Args:
        target, valid: (B, N, H, W) bools.

    Returns:
        (B, N, H, W) float32 on the CPU.
    """
    inside = (target & valid).flatten(0, 1).cpu().numpy()
    outside = (~target & valid).flatten(0, 1).cpu().numpy()
    maps = np.stack([_distances(i, o) for i, o in zip(inside, outside, strict=True)])
    return torch.from_numpy(maps).view(target.shape)


def _distances(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(H, W) bools of the two sides -> (H, W) float32."""
    result = np.zeros(inside.shape, np.float32)
    if inside.any() and outside.any():
        result[inside] = distances(outside)[inside]
        result[outside] = distances(inside)[outside]
    return result
