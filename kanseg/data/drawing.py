"""Label maps and pictures as RGB that a person can look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kanseg.data.images import to_channels
from kanseg.data.info import IGNORED

IGNORED_COLOUR = (128, 128, 128)


def viewable(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8, uint16 or float32 -> (H, W, 3) uint8, of many bands the first three; all but 8 bits are stretched between 0.5 and 99.5 percentiles."""
    if image.shape[2] not in (1, 2, 3, 4):
        image = image[:, :, :3]
    image = to_channels(image, 3)
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, (0.5, 99.5))
    least = 1e-12 if image.dtype == np.float32 else 1
    return (np.clip((image - low) / max(high - low, least), 0, 1) * 255).astype(np.uint8)


def colourise(label: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """(H, W) class indices -> (H, W, 3) RGB; ignored pixels are grey."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    table[IGNORED] = IGNORED_COLOUR
    return table[label.astype(np.uint8)]


def overlay(image: np.ndarray, label: np.ndarray, colours: Sequence[tuple[int, int, int]], *, opacity: float = 0.4) -> np.ndarray:
    """(H, W, C) picture and (H, W) class indices -> (H, W, 3) RGB: classes from 1 on tinted, all borders between classes drawn."""
    picture = viewable(image)
    painted = colourise(label, colours)
    tinted = cv2.addWeighted(picture, 1 - opacity, painted, opacity, 0)
    result = np.where((label > 0)[:, :, None], tinted, picture)
    border = np.zeros(label.shape, dtype=bool)
    border[:, 1:] |= label[:, 1:] != label[:, :-1]
    border[1:] |= label[1:] != label[:-1]
    result[border] = np.maximum(painted[border], 64)
    return result
