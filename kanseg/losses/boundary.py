"""A loss that grows with the distance from the true boundary."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kanseg.data.distances import distances
from kanseg.losses.terms import LOSSES, Pixels


@LOSSES.register("boundary")
def boundary(pixels: Pixels) -> Tensor:
    """Mean over pixels of D |p - truth|, D the distance in pixels to the nearest counted pixel of
    the other side, mean over classes.

    The boundary loss of Kervadec et al. 2019 plus a constant (their mean of D p outside and -D p
    inside, so that the gradient is the same), which makes a perfect prediction cost 0. Classes that
    an image lacks, or that fill it, have no boundary and cost nothing: add it to a loss of
    regions. Distances are those of this batch, computed by OpenCV on the CPU; as they are tens of
    pixels, its usual weight is about 0.01.
    """
    counted = pixels.counted.expand_as(pixels.truth)
    distance = distance_maps(pixels.truth > 0, counted).to(pixels.logits)
    cost = (distance * (pixels.probabilities - pixels.truth).abs()).sum((0, 2, 3))
    return pixels.mean_over_classes(cost / counted.sum((0, 2, 3)).clamp_min(1))


def distance_maps(truth: Tensor, counted: Tensor) -> Tensor:
    """Distance of every counted pixel to the nearest counted one of the other side, in pixels; 0 at
    ignored ones and where there is no other side.

    Args:
        truth, counted: (B, N, H, W) bools.

    Returns:
        (B, N, H, W) float32 on the CPU.
    """
    inside = (truth & counted).flatten(0, 1).cpu().numpy()
    outside = (~truth & counted).flatten(0, 1).cpu().numpy()
    maps = np.stack([_distances(i, o) for i, o in zip(inside, outside, strict=True)])
    return torch.from_numpy(maps).view(truth.shape)


def _distances(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(H, W) bools of the two sides -> (H, W) float32."""
    if not inside.any() or not outside.any():
        return np.zeros(inside.shape, np.float32)
    return np.where(inside, distances(outside), np.where(outside, distances(inside), 0.0)).astype(
        np.float32
    )
