"""DenseKANet: DenseNet of any convolution, as torch-conv-kan has it: KAN convolutions in the
blocks, plain ones between them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from kanseg.encoders import ENCODERS, Encoder, check_width, first_stages, scaled, shrinking_stem
from kanseg.layers.blocks import Conv
from kanseg.layers.dense import DenseBlock


class Plan(NamedTuple):
    """Layers of each block, channels that each layer adds, channels of the stem, and how much that
    shrinks the image.
    """

    layers: tuple[int, ...]
    growth: int = 32
    width: int = 64
    stem_stride: int = 4


VARIANTS = {
    "densekanet_tiny": Plan((5, 5, 5, 0), stem_stride=2),
    "densekanet_121": Plan((6, 12, 24, 16)),
    "densekanet_161": Plan((6, 12, 36, 24), growth=48, width=96),
    "densekanet_169": Plan((6, 12, 32, 32)),
    "densekanet_201": Plan((6, 12, 48, 32)),
}


def densekanet_encoder(
    plan: Plan,
    in_channels: int,
    *,
    conv: Conv,
    plain: Conv,
    stem: Conv,
    width: float | None = None,
    growth: int | None = None,
    stem_stride: int | None = None,
    depth: int | None = None,
    transition: Callable[[int, int], nn.Sequential] | None = None,
) -> Encoder:
    """Stem and dense blocks; between blocks `transition` halves the channels, a mean of 2x2 pixels
    the image.

    `width` (channels of the stem, 64 or 96), `growth` (channels that a layer adds) and
    `stem_stride` are those of the name by default; growth follows the width. `stem_stride=1` suits
    images of 32 pixels.
    """
    width = plan.width if width is None else width
    check_width(width)
    if growth is not None and growth < 1:
        raise ValueError(f"growth must be at least 1, got {growth}")
    growth = scaled(width, plan.growth / plan.width) if growth is None else growth
    shrink = transition or (
        lambda a, b: nn.Sequential(plain(a, b, 1), nn.AvgPool2d(2, ceil_mode=True))
    )
    channels = scaled(width, 1)
    stages, head = shrinking_stem(
        stem, in_channels, channels, plan.stem_stride if stem_stride is None else stem_stride
    )
    out_channels = [in_channels, channels][: len(stages)]
    for i, num_layers in enumerate(plan.layers):
        if i > 0:
            head, channels = [*shrink(channels, channels // 2)], channels // 2
        block = DenseBlock(channels, num_layers, growth, conv=conv)
        channels = block.out_channels
        stages.append(nn.Sequential(*head, block))
        out_channels.append(channels)
    stages, out_channels = first_stages(stages, out_channels, depth, "densekanet")
    return Encoder(stages, in_channels=in_channels, out_channels=out_channels)


for _name, _plan in VARIANTS.items():
    ENCODERS.register(_name)(partial(densekanet_encoder, _plan))
