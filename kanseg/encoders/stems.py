"""Stems of classification encoders, and checks of their width and depth."""

from __future__ import annotations

from math import inf

from torch import nn

from kanseg.layers.blocks import Conv


def shrinking_stem(
    stem: Conv, in_channels: int, channels: int, stride: int
) -> tuple[list[nn.Module], list[nn.Module]]:
    """A stem of the given stride: complete stages, and the first modules of the next stage.

    Stride 4 is ResNet's stem, a 7x7 convolution and a 3x3 max pool (two complete stages: the image,
    and half its size), 2 is the convolution without the pool, 1 a 3x3 convolution for small images.

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
    """Raise ValueError unless the width is finite and at least 1."""
    if not 1 <= width < inf:
        raise ValueError(f"width must be at least 1, got {width}")


def first_stages(
    stages: list[nn.Module], channels: list[int], depth: int | None, name: str
) -> tuple[list[nn.Module], list[int]]:
    """The stages with up to `depth` halvings (None for all) and their channels.

    Raises:
        ValueError: fewer than one halving, or more than there are.
    """
    deepest = len(stages) - 1
    if depth is None:
        depth = deepest
    if not 1 <= depth <= deepest:
        raise ValueError(f"{name} with these options has depths 1 to {deepest}, got depth={depth}")
    return stages[: depth + 1], channels[: depth + 1]
