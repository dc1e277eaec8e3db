"""Label maps and images as RGB that a person can look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kanseg.data.io.images import to_channels
from kanseg.data.label_spec import IGNORE_INDEX, IGNORE_INDEX_COLOR, Color

WRONG, MISSED = (230, 30, 60), (30, 110, 255)
_IGNORE_INDEX_COLORS = (IGNORE_INDEX_COLOR, (255, 255, 255), (255, 0, 255))


def viewable(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8, uint16 or float32 of any channels -> (H, W, 3) uint8.

    Of two bands the first is shown, of more than three the first three. All but 8 bits are
    stretched between their 0.5 and 99.5 percentiles.
    """
    shown = 1 if image.shape[2] == 2 else 3
    image = to_channels(image[:, :, :shown], 3)
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, (0.5, 99.5))
    least = 1e-12 if image.dtype == np.float32 else 1
    return (np.clip((image - low) / max(high - low, least), 0, 1) * 255).astype(np.uint8)


def ignored_color(colors: Sequence[Color]) -> Color:
    """What ignored pixels are drawn in: gray, or white (then magenta) where a class of the palette
    is about as gray.
    """
    taken = np.int64(colors).reshape(-1, 3)
    return next(
        (color for color in _IGNORE_INDEX_COLORS if (np.abs(taken - color).max(axis=1) > 24).all()),
        IGNORE_INDEX_COLOR,
    )


def colorize(label: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """Label map -> (H, W, 3) RGB; ignored pixels have the `ignored_color`.

    Args:
        label: (H, W) class indices, or (N, H, W) of 0 and 1 for each of N classes (multilabel); 255
            is ignored. Where several classes overlap, a pixel has the mean of their colors, and
            the border of each is drawn in its own.
        colors: an RGB color per class.
    """
    if label.ndim == 3:
        return _blend(label, colors)
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    table[IGNORE_INDEX] = ignored_color(colors)
    return table[label.astype(np.uint8)]


def overlay(
    image: np.ndarray, label: np.ndarray, colors: Sequence[Color], *, opacity: float = 0.4
) -> np.ndarray:
    """(H, W, C) image and a label map as of `colorize` -> (H, W, 3) RGB: classes (from 1 on, or
    all of multilabel) tinted, their borders drawn.
    """
    rgb, painted = viewable(image), colorize(label, colors)
    tinted = cv2.addWeighted(rgb, 1 - opacity, painted, opacity, 0)
    classes = label.astype(bool).any(axis=0) if label.ndim == 3 else label > 0
    result = np.where(classes[:, :, None], tinted, rgb)
    if label.ndim == 3:
        border = np.any([_inner_border(there == 1) for there in label], axis=0)
    else:
        border = np.zeros(label.shape, dtype=bool)
        border[:, 1:] |= label[:, 1:] != label[:, :-1]
        border[1:] |= label[1:] != label[:-1]
    result[border] = np.maximum(painted[border], 64)
    return result


def error_map(
    image: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    *,
    sides: bool,
    ignored_in: Color = IGNORE_INDEX_COLOR,
) -> np.ndarray:
    """The dimmed image (H, W, 3) with the wrong pixels in red and those that are ignored (in
    every class) in gray or another color.

    Args:
        image: (H, W, 3) uint8.
        truth, predicted: label maps as of `colorize`; a multilabel pixel is wrong where any class
        is.
        sides: whether class 1 that was missed is blue, so that red says made up.
        ignored_in: color of ignored pixels.
    """
    ignored = truth == IGNORE_INDEX
    wrong, missed = (predicted != truth) & ~ignored, (predicted == 0) & (truth == 1)
    if truth.ndim == 3:
        wrong, missed, ignored = wrong.any(axis=0), missed.any(axis=0), ignored.all(axis=0)
    error = (image * 0.35).astype(np.uint8)
    error[wrong] = WRONG
    if sides:
        error[missed] = MISSED
    error[ignored] = ignored_in
    return error


def _blend(label: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    there = label == 1
    mixed = np.einsum("nhw,nc->hwc", there, np.float32(colors[: len(label)]), dtype=np.float32)
    image = (mixed / np.maximum(there.sum(axis=0), 1)[:, :, None]).astype(np.uint8)
    for mask, color in zip(there, colors, strict=False):
        image[_inner_border(mask)] = color
    image[(label == IGNORE_INDEX).all(axis=0)] = ignored_color(colors)
    return image


def _inner_border(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask (H, W) bool that have a neighbor outside it; the edge of the image is
    no border.
    """
    return mask & ~cv2.erode(
        mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1
    ).astype(bool)
