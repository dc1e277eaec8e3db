"""Views of an image for test-time augmentation: mirrored, turned, scaled; each is predicted and
turned back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from kanseg.utils.errors import InputError

_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
_SYMMETRIES = {
    1: 1,
    2: 2,
    4: 4,
    8: 4,
    # of a square: how many of the flips; 8 are the four of them, each also with rows and columns
    # swapped
}


@dataclass(frozen=True)
class View:
    """One way to look at images (B, C, H, W).

    Args:
        axes: that are flipped.
        swapped: whether rows and columns change places after that; with the flips this gives the
            turns by 90 degrees.
        scale: factor on height and width.
    """

    axes: tuple[int, ...] = ()
    swapped: bool = False
    scale: float = 1.0

    def apply(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> what the network sees."""
        if self.scale != 1.0:
            size = [max(1, round(side * self.scale)) for side in images.shape[-2:]]
            images = F.interpolate(
                images, size=size, mode="bilinear", align_corners=False, antialias=self.scale < 1
            )
        images = images.flip(self.axes) if self.axes else images  # a flip over no axis is a copy
        return images.transpose(-1, -2) if self.swapped else images

    def undo(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Maps (B, N, h, w) of what the network saw -> (B, N, H, W) of the images, `size` (H,
        W).
        """
        maps = maps.transpose(-1, -2) if self.swapped else maps
        maps = maps.flip(self.axes) if self.axes else maps
        return (
            maps
            if tuple(maps.shape[-2:]) == tuple(size)
            else F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
        )


def views(flips: int = 1, scales: Sequence[float] = (1.0,)) -> tuple[View, ...]:
    """All views, the image as it is first where it is among them.

    Args:
        flips: 1 = as it is, 2 = also left-right, 4 = both axes and their product, 8 = these also
            turned by 90 degrees.
        scales: factors, each with every flip.

    Raises:
        InputError: another number of flips, or factors that are not above 0.
    """
    if flips not in _SYMMETRIES:
        raise InputError(f"flips must be 1, 2, 4 or 8, got {flips}")
    if not scales or not all(0 < scale <= 16 for scale in scales):
        raise InputError(f"scales must be factors above 0 and up to 16, got {list(scales)}")
    axes = _FLIPS[: _SYMMETRIES[flips]]
    return tuple(
        View(each, swapped, scale)
        for scale, swapped, each in product(
            dict.fromkeys(scales), (False, True)[: 1 + (flips == 8)], axes
        )
    )


def averaged(
    predict: Callable[[Tensor], Tensor], images: Tensor, looks: Sequence[View], *, variance: bool
) -> Tensor:
    """The mean over the views of the probabilities (B, N, H, W); with `variance` a channel more,
    the variance over them (mean over the classes).
    """
    size = images.shape[-2:]
    mean, squares = None, None
    for count, look in enumerate(looks, 1):
        values = look.undo(predict(look.apply(images)), size)
        if mean is None:
            mean, squares = values, torch.zeros_like(values) if variance else None
            continue
        step = values - mean
        mean = mean + step / count
        if squares is not None:
            squares += step * (values - mean)  # Welford: no differences of large numbers
    return (
        mean
        if squares is None
        else torch.cat([mean, squares.mean(dim=1, keepdim=True) / len(looks)], dim=1)
    )
