"""RGB colors: packed into one integer, and the palettes that masks are drawn in."""

from __future__ import annotations

import numpy as np

Color = tuple[int, int, int]
IGNORE_INDEX_COLOR: Color = (128, 128, 128)
# Chosen greedily: each color is as far as possible from those before it, from the gray of ignored
# pixels and from the colors of errors, also with deuteranopia and protanopia (smallest distance in
# CIELAB after the simulation of Machado et al., 2009).
DISTINCT: tuple[Color, ...] = (
    (0, 0, 0),
    (64, 196, 255),
    (255, 213, 64),
    (120, 255, 195),
    (105, 45, 120),
    (0, 0, 255),
    (210, 240, 135),
    (0, 195, 195),
    (120, 0, 165),
    (180, 0, 75),
    (255, 75, 0),
    (120, 180, 120),
    (90, 150, 255),
    (90, 75, 0),
    (120, 120, 180),
    (165, 255, 255),
    (0, 45, 210),
    (210, 165, 75),
    (255, 105, 165),
    (135, 90, 195),
    (150, 45, 105),
)


def pack_rgb(colors: np.ndarray) -> np.ndarray:
    """Pack RGB values (..., 3) into integers red * 65536 + green * 256 + blue, int32 (...)."""
    wide = np.asarray(colors).astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def unpack_rgb(packed: int) -> list[int]:
    """Return [red, green, blue] of an integer from `pack_rgb`."""
    return [packed >> 16, packed >> 8 & 255, packed & 255]


def default_palette(classes: int) -> list[Color]:
    """Return one color per class: black, twenty colors that color-blind people can distinguish,
    then the colors of PASCAL VOC without the gray of ignored pixels.
    """
    colors = dict.fromkeys([*DISTINCT, *voc_palette(512)])
    colors.pop(IGNORE_INDEX_COLOR)
    return list(colors)[:classes]


def voc_palette(count: int = 256) -> list[Color]:
    """Return the palette of PASCAL VOC; entry 255 is the color of ignored pixels.

    The bits of the index, lowest first, go in turn to red, green and blue, from the highest bit of
    each downwards.
    """
    palette = []
    for index in range(count):
        color = [0, 0, 0]
        for bit in range(3):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        palette.append(tuple(color))
    return palette
