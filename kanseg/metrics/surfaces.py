"""Distances between the surfaces of two masks: Hausdorff, average surface distance, boundary IoU.

The surface of a mask consists of its pixels that share a side with a pixel outside it or with the
edge of the image. Ignored pixels belong to no mask, and a mask has no surface along them.

For each class of an image, if both masks are empty, the scores are undefined (NaN, left out of
means and counted). If one mask is empty, the scores are the worst: distances are the diagonal of
the image, the surface Dice is 0. If one mask has no surface because of ignored pixels, the scores
are undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from kanseg.data.distances import distances
from kanseg.utils.errors import InputError

SURFACE_SCORES = ("hd95", "hd", "assd", "nsd")
BOUNDARY_WIDTH = 0.02  # of the diagonal: Cheng et al. 2021


@dataclass(frozen=True)
class SurfaceOptions:
    """How surfaces are compared.

    Args:
        tolerance: distance up to which a surface pixel counts as correct for the normalized surface
            Dice, in pixels or in the unit of `spacing`.
        spacing: (row, column) distance of neighboring pixels in some unit; None for distances in
            pixels.

    Raises:
        InputError: values out of range.
    """

    tolerance: float = 2.0
    spacing: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < float("inf"):
            raise InputError(f"the tolerance of surfaces must be 0 or more, got {self.tolerance}")
        if self.spacing is None:
            return
        is_positive = all(0 < value < float("inf") for value in self.spacing)
        if len(self.spacing) != 2 or not is_positive:
            raise InputError(
                f"the spacing must be two positive numbers, [row, column], got {list(self.spacing)}"
            )


def surface_scores(
    predicted: np.ndarray,
    target: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
    tolerance: float = 2.0,
) -> dict[str, float]:
    """Distances between the surfaces of two masks, with the conventions of this module.

    `hd95` and `hd`: 95th percentile (linearly interpolated) and maximum, the larger of both
    directions; `assd`: mean over both surfaces; `nsd`: share of both surfaces within the tolerance
    (Nikolov et al. 2021, by pixels).

    Args:
        predicted, target: (H, W) bools.
        valid: (H, W) bools; ignored where False.
        spacing: (row, column) distance of neighboring pixels.
        tolerance: in the same unit.

    Returns:
        The names of SURFACE_SCORES -> value.
    """
    if valid is None:
        valid = np.ones(target.shape, bool)
    predicted, target = predicted & valid, target & valid
    if predicted.any() != target.any():
        diagonal = float(np.hypot(target.shape[0] * spacing[0], target.shape[1] * spacing[1]))
        return {"hd95": diagonal, "hd": diagonal, "assd": diagonal, "nsd": 0.0}
    ours, theirs = surface(predicted, valid), surface(target, valid)
    if not ours.any() or not theirs.any():
        return dict.fromkeys(SURFACE_SCORES, float("nan"))
    forth, back = surface_distances(ours, theirs, spacing)
    both = np.concatenate([forth, back])
    return {
        "hd95": float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        "hd": float(both.max()),
        "assd": float(both.mean()),
        "nsd": float((both <= tolerance).mean()),
    }


def surface(mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The surface of a mask, (H, W) bools; pixels where `valid` is False are ignored."""
    return mask & ~_erode(mask | ~valid, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))


def surface_distances(
    ours: np.ndarray, theirs: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of each pixel of our surface to theirs, and of theirs to ours, float64.

    Args:
        ours, theirs: (H, W) bools, neither empty.
        spacing: (row, column) distance of neighboring pixels.
    """
    if spacing[0] != spacing[1]:
        return _distances_of_points(ours, theirs, spacing)
    # Cropping to the window around both surfaces does not change the distances.
    both = ours | theirs
    rows, columns = np.flatnonzero(both.any(axis=1)), np.flatnonzero(both.any(axis=0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ours, theirs = ours[window], theirs[window]
    return distances(theirs)[ours] * spacing[0], distances(ours)[theirs] * spacing[0]


def _distances_of_points(
    ours: np.ndarray, theirs: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """`surface_distances` for pixels that are not square, which OpenCV's distance transform does
    not support, with k-d trees of the points.
    """
    from scipy.spatial import cKDTree

    our_points = np.argwhere(ours) * np.array(spacing)
    their_points = np.argwhere(theirs) * np.array(spacing)
    forth, _ = cKDTree(their_points).query(our_points)
    back, _ = cKDTree(our_points).query(their_points)
    return forth, back


def boundary_counts(
    predicted: np.ndarray,
    target: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    width: float = BOUNDARY_WIDTH,
) -> tuple[int, int]:
    """Count the pixels in the intersection and the union of two masks' boundaries, whose quotient
    is the Boundary IoU (Cheng et al. 2021).

    The boundary of a mask consists of its pixels within a distance of `width` times the diagonal of
    the image from the outside (chessboard distance in whole pixels, at least 1).

    Args:
        predicted, target, valid: as of `surface_scores`.
        width: share of the diagonal.
    """
    if valid is None:
        valid = np.ones(target.shape, bool)
    pixels = max(1, round(width * float(np.hypot(*target.shape))))
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    ours = predicted & valid
    ours &= ~_erode(ours | ~valid, kernel)
    theirs = target & valid
    theirs &= ~_erode(theirs | ~valid, kernel)
    return int((ours & theirs).sum()), int((ours | theirs).sum())


def _erode(mask: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Erosion of (H, W) bools with nothing beyond the edges of the image."""
    eroded = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return eroded > 0
