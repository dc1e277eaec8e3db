"""VGGKAN: stacks of 3x3 convolutions and maxima (VGG, Simonyan and Zisserman 2014,
arXiv:1409.1556), with torch-conv-kan's channels.
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
MULTIPLES = (1, 2, 4, 8, 8)  # channels of the five levels, in multiples of the width
LAYOUTS: dict[str, tuple[int, ...]] = {
    "v1": (),
    "v2": (8, 8),
    "v3": (8, 16),
    "v4": (16, 16),
}  # the convolutions of a sixth level


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
    """Five or six levels of 3x3 convolutions, a maximum of 2x2 pixels between them.

    `layout` is torch-conv-kan's: "v1" has five levels, "v2", "v3" and "v4" two more convolutions on
    a sixth, of 8 and 8, 8 and 16, 16 and 16 times the width.
    """
    check_width(width)
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    levels = [[scaled(width, m)] * count for m, count in zip(MULTIPLES, num_convs, strict=True)]
    levels += [[scaled(width, m) for m in LAYOUTS[layout]]] if LAYOUTS[layout] else []
    first = stem(in_channels, levels[0][0], 3, padding=1)
    stages: list[nn.Module] = [nn.Sequential(first, *conv_stack(conv, levels[0]))]
    for before, level in zip(levels[:-1], levels[1:], strict=True):
        stages.append(
            nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), *conv_stack(conv, [before[-1], *level]))
        )
    stages, channels = first_stages(
        stages, [level[-1] for level in levels], depth, f"vggkan with layout {layout}"
    )
    return Encoder(stages, in_channels=in_channels, out_channels=channels)


for _name, _num_convs in VARIANTS.items():
    ENCODERS.register(_name)(partial(vggkan_encoder, _num_convs))
