"""Distances of pixels."""

from __future__ import annotations

import cv2
import numpy as np


def distances(side: np.ndarray) -> np.ndarray:
    """(H, W) bools, not all False -> (H, W) float64: the distance of every pixel to the nearest
    that is True, in pixels.

    OpenCV's own result differs from call to call in the last bit. Squares of distances are
    integers, so that rounding them makes it exact, up to about 1400 pixels; beyond that the square
    may be one off.
    """
    found = cv2.distanceTransform((~side).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(found.astype(np.float64) ** 2))
