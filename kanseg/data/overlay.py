"""Draw masks and images as RGB."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kanseg.data.io.colors import IGNORE_INDEX_COLOR, Color
from kanseg.data.io.images import to_channels
from kanseg.data.label_spec import IGNORE_INDEX

WRONG, MISSED = (230, 30, 60), (30, 110, 255)
MIN_BORDER = 64  # of each channel, so that dark borders are visible on dark images
SIMILAR = 24  # difference per channel up to which colors are easily confused
_IGNORED_COLORS = (IGNORE_INDEX_COLOR, (255, 255, 255), (255, 0, 255))


def viewable(image: np.ndarray) -> np.ndarray:
    """Convert an image (H, W, C) uint8, uint16 or float32 with any channels to (H, W, 3) uint8.

    Of two channels the first is shown, of more than three the first three. Values of more than 8
    bits are stretched between their 0.5 and 99.5 percentiles.
    """
    if image.shape[2] == 2:
        image = image[:, :, :1]
    image = to_channels(image[:, :, :3], 3)
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, (0.5, 99.5))
    span = max(high - low, 1)
    if image.dtype == np.float32:
        span = max(high - low, 1e-12)
    return (np.clip((image - low) / span, 0, 1) * 255).astype(np.uint8)


def ignored_color(colors: Sequence[Color]) -> Color:
    """Return the color of ignored pixels: gray, or white or magenta if a class is similar."""
    taken = np.int64(colors).reshape(-1, 3)
    for color in _IGNORED_COLORS:
        if (np.abs(taken - color).max(axis=1) > SIMILAR).all():
            return color
    return IGNORE_INDEX_COLOR


def colorize(mask: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """Draw a mask as RGB (H, W, 3); ignored pixels have the `ignored_color`.

    Args:
        mask: (H, W) class indices, or (N, H, W) of 0 and 1 for each of N classes (multilabel); 255
            is ignored. Where several classes overlap, a pixel has the mean of their colors, and
            the border of each class is drawn in its own color.
        colors: an RGB color per class.
    """
    if mask.ndim == 3:
        return _colorize_multilabel(mask, colors)
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    table[IGNORE_INDEX] = ignored_color(colors)
    return table[mask.astype(np.uint8)]


def overlay(
    image: np.ndarray, mask: np.ndarray, colors: Sequence[Color], *, opacity: float = 0.4
) -> np.ndarray:
    """Tint the classes of a mask in an image and draw their borders; returns RGB (H, W, 3) uint8.

    Args:
        image: (H, W, C), as for `viewable`.
        mask: as for `colorize`; class 0 of an (H, W) mask is the background and not tinted.
        colors: an RGB color per class.
        opacity: of the tint, 0 to 1.
    """
    rgb, painted = viewable(image), colorize(mask, colors)
    if mask.ndim == 3:
        covered = (mask > 0).any(axis=0)
        border = np.any([_inner_border(plane == 1) for plane in mask], axis=0)
    else:
        covered = mask > 0
        border = np.zeros(mask.shape, dtype=bool)
        border[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        border[1:] |= mask[1:] != mask[:-1]
    tinted = cv2.addWeighted(rgb, 1 - opacity, painted, opacity, 0)
    result = np.where(covered[:, :, None], tinted, rgb)
    result[border] = np.maximum(painted[border], MIN_BORDER)
    return result


def error_map(
    image: np.ndarray,
    target: np.ndarray,
    predicted: np.ndarray,
    *,
    sides: bool,
    ignored_in: Color = IGNORE_INDEX_COLOR,
) -> np.ndarray:
    """Draw wrong pixels in red on the dimmed image (H, W, 3), and pixels that are ignored (in every
    class) in gray or another color.

    Args:
        image: (H, W, 3) uint8.
        target, predicted: masks as for `colorize`; a multilabel pixel is wrong if any class is.
        sides: draw missed pixels of class 1 in blue, so that red means false positives.
        ignored_in: color of ignored pixels.
    """
    ignored = target == IGNORE_INDEX
    wrong = (predicted != target) & ~ignored
    missed = (predicted == 0) & (target == 1)
    if target.ndim == 3:
        wrong, missed, ignored = wrong.any(axis=0), missed.any(axis=0), ignored.all(axis=0)
    error = (image * 0.35).astype(np.uint8)
    error[wrong] = WRONG
    if sides:
        error[missed] = MISSED
    error[ignored] = ignored_in
    return error


def _colorize_multilabel(mask: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """Draw (N, H, W): the mean color of the classes at each pixel, and the border of each."""
    present = mask == 1
    total = np.einsum("nhw,nc->hwc", present, np.float32(colors[: len(mask)]), dtype=np.float32)
    image = (total / np.maximum(present.sum(axis=0), 1)[:, :, None]).astype(np.uint8)
    for plane, color in zip(present, colors, strict=False):
        image[_inner_border(plane)] = color
    image[(mask == IGNORE_INDEX).all(axis=0)] = ignored_color(colors)
    return image


def _inner_border(plane: np.ndarray) -> np.ndarray:
    """Return the pixels of an (H, W) bool mask that have a neighbor outside of it. The edge of the
    image is not a border.
    """
    kernel = np.ones((3, 3), np.uint8)
    inner = cv2.erode(plane.astype(np.uint8), kernel, borderValue=1)
    return plane & (inner == 0)
