"""VGGKAN: VGG (Simonyan and Zisserman 2014, arXiv:1409.1556) with any convolution, and
torch-conv-kan's channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from kanseg.encoders import ENCODERS, Encoder, check_width, first_stages, scaled
from kanseg.layers.blocks import Conv, conv_stack

VARIANTS = {
    "vggkan11": (1, 1, 2, 2, 2),
    "vggkan13": (2, 2, 2, 2, 2),
    "vggkan16": (2, 2, 3, 3, 3),
    "vggkan19": (2, 2, 4, 4, 4),
}
MULTIPLES = (1, 2, 4, 8, 8)  # channels of the five levels, as multiples of the width
# Channels of the convolutions of a sixth level, as multiples of the width.
LAYOUTS: dict[str, tuple[int, ...]] = {
    "v1": (),
    "v2": (8, 8),
    "v3": (8, 16),
    "v4": (16, 16),
}


def vggkan_encoder(
    num_convs: Sequence[int],
    in_channels: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 16,
    layout: str = "v4",
    depth: int | None = None,
) -> Encoder:
    """Five or six levels of 3x3 convolutions, with 2x2 max pools between them.

    `layout` is torch-conv-kan's: "v1" has five levels; "v2", "v3" and "v4" have two convolutions on
    a sixth level, with 8 and 8, 8 and 16, 16 and 16 times `width` channels.
    """
    check_width(width)
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    levels = [[scaled(width, m)] * count for m, count in zip(MULTIPLES, num_convs, strict=True)]
    if LAYOUTS[layout]:
        levels.append([scaled(width, m) for m in LAYOUTS[layout]])
    stages: list[nn.Module] = []
    out_channels: list[int] = []
    for level in levels:
        if not stages:
            first = stem(in_channels, level[0], 3, padding=1)
            stages.append(nn.Sequential(first, *conv_stack(conv, level)))
        else:
            pool = nn.MaxPool2d(2, ceil_mode=True)
            stages.append(nn.Sequential(pool, *conv_stack(conv, [out_channels[-1], *level])))
        out_channels.append(level[-1])
    stages, out_channels = first_stages(stages, out_channels, depth, f"vggkan with layout {layout}")
    return Encoder(stages, in_channels=in_channels, out_channels=out_channels)


for _name, _num_convs in VARIANTS.items():
    ENCODERS.register(_name)(partial(vggkan_encoder, _num_convs))
