"""Distances between pixels."""

from __future__ import annotations

import cv2
import numpy as np


def distances(mask: np.ndarray) -> np.ndarray:
    """Return the distance of every pixel to the nearest True pixel, (H, W) float64, in pixels.

    OpenCV's own result differs from call to call in the last bit. Squares of distances are
    integers, so rounding them makes the result exact up to about 1400 pixels; beyond that the
    square may be off by one.

    Args:
        mask: (H, W) bool, not all False.
    """
    found = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(found.astype(np.float64) ** 2))
