"""SimpleKAN: four or eight convolutions in a row, torch-conv-kan's networks for MNIST and CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from kanseg.encoders import ENCODERS, Encoder, check_width, first_stages, scaled
from kanseg.layers.blocks import Conv, conv_stack

# channels of the convolutions of each level, in multiples of the width; the first convolution of a
# level but the first has stride 2
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
    """Levels of 3x3 convolutions, the first of each with stride 2."""
    check_width(width)
    channels = [[scaled(width, m) for m in level] for level in levels]
    stages: list[nn.Module] = [
        nn.Sequential(
            stem(in_channels, channels[0][0], 3, padding=1), *conv_stack(conv, channels[0])
        )
    ]
    for before, level in zip(channels[:-1], channels[1:], strict=True):
        stages.append(conv_stack(conv, [before[-1], *level], stride=2))
    stages, out_channels = first_stages(
        stages, [level[-1] for level in channels], depth, "simple_kan"
    )
    return Encoder(stages, in_channels=in_channels, out_channels=out_channels)


for _name, _levels in VARIANTS.items():
    ENCODERS.register(_name)(partial(simple_encoder, _levels))
