"""SimpleKAN: torch-conv-kan's networks of four or eight convolutions for MNIST and CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from kanseg.encoders import ENCODERS, Encoder, check_width, first_stages, scaled
from kanseg.layers.blocks import Conv, conv_stack

# Channels of the convolutions of each level, as multiples of the width. Each level but the first
# starts with stride 2.
VARIANTS = {
    "simple_kan_4": ((1,), (2,), (4, 8)),
    "simple_kan_8": ((1,), (2,), (4, 8, 8), (16, 16, 16)),
}


def simple_encoder(
    levels: Sequence[Sequence[float]],
    in_channels: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 32,
    depth: int | None = None,
) -> Encoder:
    """Levels of 3x3 convolutions; each level but the first halves the image."""
    check_width(width)
    stages: list[nn.Module] = []
    out_channels: list[int] = []
    for level in levels:
        channels = [scaled(width, multiple) for multiple in level]
        if not stages:
            first = stem(in_channels, channels[0], 3, padding=1)
            stages.append(nn.Sequential(first, *conv_stack(conv, channels)))
        else:
            stages.append(conv_stack(conv, [out_channels[-1], *channels], stride=2))
        out_channels.append(channels[-1])
    stages, out_channels = first_stages(stages, out_channels, depth, "simple_kan")
    return Encoder(stages, in_channels=in_channels, out_channels=out_channels)


for _name, _levels in VARIANTS.items():
    ENCODERS.register(_name)(partial(simple_encoder, _levels))
