"""What stands before the first block of a classifier: how much the image shrinks before anything
else is done with it.
"""

from __future__ import annotations

from math import inf

from torch import nn

from kanseg.layers.blocks import Conv


def shrinking_stem(
    stem: Conv, in_channels: int, channels: int, stride: int
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Whole stages, and the modules at the head of the stage that follows them; together they
    shrink the image `stride` times.

    Stride 4 is ResNet's (7x7 convolution, 3x3 maximum: two whole stages, the image itself and
    half its size), 2 the convolution without the maximum, 1 a 3x3 convolution for small images.

    Raises:
        ValueError: another stride.
    """
    if stride not in (1, 2, 4):
        raise ValueError(f"stem_stride must be 1, 2 or 4, got {stride!r}")
    if stride == 1:
        return [], [stem(in_channels, channels, 3, padding=1)]
    strided = stem(in_channels, channels, 7, stride=2, padding=3)
    if stride == 2:
        return [nn.Identity()], [strided]
    return [nn.Identity(), nn.Sequential(strided)], [nn.MaxPool2d(3, stride=2, padding=1)]


def check_width(width: float) -> None:
    """ValueError unless the width is a number from 1 on."""
    if not 1 <= width < inf:
        raise ValueError(f"width must be at least 1, got {width}")


def first_stages(
    stages: list[nn.Module], channels: list[int], depth: int | None, name: str
) -> tuple[list[nn.Module], list[int]]:
    """The stages down to `depth` halvings (all for None) with their channels; ValueError where
    there are fewer.
    """
    deepest = len(stages) - 1
    if depth is not None and not 1 <= depth <= deepest:
        raise ValueError(f"{name} with these options has depths 1 to {deepest}, got depth={depth}")
    count = deepest + 1 if depth is None else depth + 1
    return stages[:count], channels[:count]
