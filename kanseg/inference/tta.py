"""Test-time augmentation: average predictions of mirrored, rotated and scaled views of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kanseg.utils.errors import InputError

# Axes that are flipped, in the order in which `flips` adds them.
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


@dataclass(frozen=True)
class View:
    """A transform of images (B, C, H, W) that can be undone on their probability maps.

    Args:
        axes: axes to flip.
        swapped: swap rows and columns after the flips, which gives the rotations by 90 degrees.
        scale: factor on height and width.
    """

    axes: tuple[int, ...] = ()
    swapped: bool = False
    scale: float = 1.0

    def apply(self, images: Tensor) -> Tensor:
        """Transform images (B, C, H, W) for the network."""
        if self.scale != 1.0:
            size = [max(1, round(side * self.scale)) for side in images.shape[-2:]]
            images = F.interpolate(
                images, size=size, mode="bilinear", align_corners=False, antialias=self.scale < 1
            )
        if self.axes:  # a flip over no axis would be a copy
            images = images.flip(self.axes)
        if self.swapped:
            images = images.transpose(-1, -2)
        return images

    def undo(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Transform maps (B, N, h, w) back to (B, N, H, W), with `size` (H, W)."""
        if self.swapped:
            maps = maps.transpose(-1, -2)
        if self.axes:
            maps = maps.flip(self.axes)
        if tuple(maps.shape[-2:]) == tuple(size):
            return maps
        return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def views(flips: int = 1, scales: Sequence[float] = (1.0,)) -> tuple[View, ...]:
    """List all views, the unchanged image first if it is included.

    Args:
        flips: 1 = none, 2 = also left-right, 4 = also top-bottom and both, 8 = these four also
            rotated by 90 degrees.
        scales: factors on height and width, each combined with every flip.

    Raises:
        InputError: another number of flips, or factors that are not above 0.
    """
    if flips not in (1, 2, 4, 8):
        raise InputError(f"flips must be 1, 2, 4 or 8, got {flips}")
    if not scales or not all(0 < scale <= 16 for scale in scales):
        raise InputError(f"scales must be factors above 0 and up to 16, got {list(scales)}")
    found = []
    for scale in dict.fromkeys(scales):
        found += [View(axes, False, scale) for axes in _FLIPS[:flips]]
        if flips == 8:
            found += [View(axes, True, scale) for axes in _FLIPS]
    return tuple(found)


class ViewAverage:
    """Running mean of the probabilities (B, N, H, W) of several views, and their variance.

    Args:
        variance: whether `result` has one channel more: the variance over the views, averaged over
            the classes.
    """

    def __init__(self, *, variance: bool):
        self._variance = variance
        self._count = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None  # sum of the squared distances from the mean

    def update(self, values: Tensor) -> None:
        """Add the probabilities of one view."""
        self._count += 1
        if self._count == 1:
            self._mean = values
            if self._variance:
                self._squares = torch.zeros_like(values)
            return
        step = values - self._mean
        self._mean = self._mean + step / self._count
        if self._variance:
            # Welford's algorithm: no differences of large numbers.
            self._squares += step * (values - self._mean)

    def result(self) -> Tensor:
        """(B, N, H, W), or (B, N + 1, H, W) with the variance as the last channel."""
        if not self._variance:
            return self._mean
        variance = self._squares.mean(dim=1, keepdim=True) / self._count
        return torch.cat([self._mean, variance], dim=1)
