"""U2KANet: U2-Net (Qin et al. 2020, arXiv:2005.09007) with any convolution, nested U-Nets with an
output at every level.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanseg.encoders import ENCODERS, Encoder, check_size, scaled
from kanseg.layers.blocks import Conv
from kanseg.layers.nested import ResidualU, resize_like
from kanseg.models.segmentation import MODELS, SegmentationModel


class Plan(NamedTuple):
    """Inner and output channels of the nested U-Nets of encoder (down) and decoder (up), as
    multiples of the width, from the image's level to the deepest one.
    """

    down: tuple[tuple[float, float], ...]
    up: tuple[tuple[float, float], ...]


VARIANTS = {
    "u2kanet": Plan(
        down=((0.5, 1), (0.5, 2), (1, 4), (2, 8), (4, 8), (4, 8)),
        up=((0.25, 1), (0.5, 1), (1, 2), (2, 4), (4, 8)),
    ),
    "u2kanet_small": Plan(down=((0.25, 1),) * 6, up=((0.25, 1),) * 5),
}
DILATED_FROM = 4  # first level that uses dilation, since its features are too small to be halved
Level = Callable[..., nn.Module]


def _level(conv: Conv, width: float, align_corners: bool) -> Level:
    """A builder: (level, in_channels, (inner, output) multiples of the width) -> nested U-Net."""

    def build(
        level: int, in_channels: int, multiples: tuple[float, float], stem: Conv | None = None
    ) -> ResidualU:
        mid_channels, out_channels = (scaled(width, m) for m in multiples)
        height, dilated = max(7 - level, 4), level >= DILATED_FROM
        return ResidualU(
            in_channels,
            mid_channels,
            out_channels,
            height,
            conv=conv,
            stem=stem,
            dilated=dilated,
            align_corners=align_corners,
        )

    return build


def u2kanet_encoder(
    plan: Plan,
    in_channels: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 16,
    depth: int = 5,
    align_corners: bool = False,
) -> Encoder:
    """depth + 1 levels of nested U-Nets, with a 2x2 max pool before each but the first.

    The first level has `width` output channels.
    """
    check_size(width, depth, deepest=5)
    build = _level(conv, width, align_corners)
    out_channels = [scaled(width, multiple) for _, multiple in plan.down[: depth + 1]]
    stages = [build(0, in_channels, plan.down[0], stem)]
    for i in range(1, depth + 1):
        pool = nn.MaxPool2d(2, ceil_mode=True)
        stages.append(nn.Sequential(pool, build(i, out_channels[i - 1], plan.down[i])))
    return Encoder(stages, in_channels=in_channels, out_channels=out_channels)


class NestedDecoder(nn.Module):
    """Feature pyramid -> one feature map per level; the deepest one is the encoder's feature.

    Args:
        blocks: one per level but the deepest, from large to small; block i reads the concatenation
            of map i + 1 and feature i.
        out_channels: channels of the maps.
    """

    def __init__(self, blocks: list[nn.Module], *, out_channels: list[int]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.out_channels = out_channels

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[(B, C_i, H_i, W_i)] from large to small -> as many (B, out_channels[i], H_i, W_i)."""
        maps = [features[-1]]
        for block, skip in zip(reversed(self.blocks), features[-2::-1], strict=True):
            maps.append(block(torch.cat([resize_like(maps[-1], skip), skip], dim=1)))
        return maps[::-1]


class SideOutputs(nn.Module):
    """Logits of every map at the size of the first, and a 1x1 convolution that fuses them.

    Returns raw logits (B, classes, H, W): in training [fused, side 1, side 2, ...] for deep
    supervision, in evaluation the fused ones only.

    Attributes:
        always_sides: return the list in evaluation too.
    """

    always_sides = False

    def __init__(self, in_channels: list[int], classes: int):
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(c, classes, 3, padding=1) for c in in_channels)
        self.fuse = nn.Conv2d(len(in_channels) * classes, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor | list[Tensor]:
        sides = [resize_like(side(x), maps[0]) for side, x in zip(self.sides, maps, strict=True)]
        fused = self.fuse(torch.cat(sides, dim=1))
        if self.training or self.always_sides:
            return [fused, *sides]
        return fused


def u2kanet(
    plan: Plan,
    in_channels: int,
    classes: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 16,
    depth: int = 5,
    align_corners: bool = False,
    aux_params: dict[str, object] | None = None,
) -> SegmentationModel:
    """Nested U-Nets in encoder and decoder; returns the fused logits, in training also those of
    each level.

    `align_corners` applies to the upsampling inside the blocks (torch-conv-kan: True).
    """
    encoder = u2kanet_encoder(
        plan,
        in_channels,
        conv=conv,
        stem=stem,
        width=width,
        depth=depth,
        align_corners=align_corners,
    )
    build = _level(conv, width, align_corners)
    channels = [scaled(width, multiple) for _, multiple in plan.up[:depth]]
    channels.append(encoder.out_channels[-1])
    blocks = [build(i, channels[i + 1] + encoder.out_channels[i], plan.up[i]) for i in range(depth)]
    decoder = NestedDecoder(blocks, out_channels=channels)
    return SegmentationModel(
        encoder,
        decoder,
        head=SideOutputs(channels, classes),
        classes=classes,
        aux_params=aux_params,
    )


for _name, _plan in VARIANTS.items():
    MODELS.register(_name)(partial(u2kanet, _plan))
    ENCODERS.register(_name)(partial(u2kanet_encoder, _plan))
