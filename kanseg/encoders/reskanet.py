"""ResKANet: ResNet (He et al. 2016, arXiv:1512.03385) with any convolution, in torch-conv-kan's
blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from kanseg.encoders import ENCODERS, Encoder, check_width, first_stages, scaled, shrinking_stem
from kanseg.layers.blocks import BasicBlock, BottleneckBlock, Conv, stage

VARIANTS: dict[str, tuple[type[nn.Module], Sequence[int]]] = {
    "reskanet_18": (BasicBlock, (2, 2, 2, 2)),
    "reskanet_34": (BasicBlock, (3, 4, 6, 3)),
    "reskanet_50": (BottleneckBlock, (3, 4, 6, 3)),
    "reskanet_101": (BottleneckBlock, (3, 4, 23, 3)),
    "reskanet_152": (BottleneckBlock, (3, 8, 36, 3)),
}


def reskanet_encoder(
    block: type[nn.Module],
    num_blocks: Sequence[int],
    in_channels: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 64,
    stem_stride: int = 4,
    depth: int | None = None,
) -> Encoder:
    """A stem and four residual stages of 1, 2, 4 and 8 times `width` channels (4 times as many from
    50 layers on).

    `stem_stride=1` suits images of 32 pixels; feature 0 is then the output of the first stage
    instead of the image.
    """
    check_width(width)
    stages, head = shrinking_stem(stem, in_channels, scaled(width, 1), stem_stride)
    channels = [in_channels, scaled(width, 1)][: len(stages)]
    before = scaled(width, 1)
    for i, count in enumerate(num_blocks):
        after = scaled(width, 2**i) * block.expansion
        blocks = stage(partial(block, conv=conv), before, after, count, stride=1 if i == 0 else 2)
        stages.append(nn.Sequential(*head, *blocks))
        channels.append(after)
        head, before = [], after
    stages, channels = first_stages(stages, channels, depth, "reskanet")
    return Encoder(stages, in_channels=in_channels, out_channels=channels)


for _name, (_block, _num_blocks) in VARIANTS.items():
    ENCODERS.register(_name)(partial(reskanet_encoder, _block, _num_blocks))
