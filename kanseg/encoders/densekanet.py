"""DenseKANet: torch-conv-kan's DenseNet, with any convolution in the dense blocks and plain
convolutions between them.
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
    """Sizes of a DenseKANet.

    Args:
        layers: number of layers of each dense block.
        growth: channels that each layer adds.
        width: channels of the stem.
        stem_stride: stride of the stem.
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
    """A stem and dense blocks; transitions between them halve the channels and the image.

    Args:
        plan: sizes of the network.
        width: channels of the stem; those of the plan by default.
        growth: channels that each layer adds; by default in proportion to the width.
        stem_stride: stride of the stem; 1 suits images of 32 pixels.
        depth: number of halvings; all by default.
        transition: (in_channels, out_channels) -> modules between two blocks; by default a 1x1
            convolution and an average pool.
    """
    if width is None:
        width = plan.width
    check_width(width)
    if growth is None:
        growth = scaled(width, plan.growth / plan.width)
    if growth < 1:
        raise ValueError(f"growth must be at least 1, got {growth}")
    if stem_stride is None:
        stem_stride = plan.stem_stride

    def pooled_conv(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(plain(before, after, 1), nn.AvgPool2d(2, ceil_mode=True))

    transition = transition or pooled_conv
    channels = scaled(width, 1)
    stages, head = shrinking_stem(stem, in_channels, channels, stem_stride)
    out_channels = [in_channels, channels][: len(stages)]
    for i, num_layers in enumerate(plan.layers):
        if i > 0:
            head = transition(channels, channels // 2)
            channels = channels // 2
        block = DenseBlock(channels, num_layers, growth, conv=conv)
        channels = block.out_channels
        stages.append(nn.Sequential(*head, block))
        out_channels.append(channels)
    stages, out_channels = first_stages(stages, out_channels, depth, "densekanet")
    return Encoder(stages, in_channels=in_channels, out_channels=out_channels)


for _name, _plan in VARIANTS.items():
    ENCODERS.register(_name)(partial(densekanet_encoder, _plan))
