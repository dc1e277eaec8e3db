"""Distances between the outlines of two masks: Hausdorff, average surface distance, boundary IoU.

A mask's surface is its pixels that touch (by a side) a pixel outside it, or the edge of the
image. Ignored pixels belong to no mask, and where a mask touches them it has no surface.
Policies, for each class of an image: in neither mask, undefined (NaN, left out of means and
counted); in one only, the worst: the distances are the image's diagonal, the surface Dice 0; in
both, but one of them without a surface because of ignored pixels, undefined.
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
        tolerance: distance up to which a place of a surface is right for the normalized surface
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
    truth: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
    tolerance: float = 2.0,
) -> dict[str, float]:
    """Distances of two masks by the policies of this module.

    `hd95` and `hd`: the larger one of the two directions' 95th percentile (linearly interpolated)
    and maximum; `assd`: the mean over both surfaces; `nsd`: the share of both surfaces within the
    tolerance (Nikolov et al. 2021, by pixels).

    Args:
        predicted, truth: (H, W) bools.
        valid: (H, W) bools; ignored where False.
        spacing: (row, column) distance of neighboring pixels.
        tolerance: in the same unit.

    Returns:
        The names of SURFACE_SCORES -> value.
    """
    if valid is None:
        valid = np.ones(truth.shape, bool)
    predicted, truth = predicted & valid, truth & valid
    if predicted.any() != truth.any():
        diagonal = float(np.hypot(truth.shape[0] * spacing[0], truth.shape[1] * spacing[1]))
        return {"hd95": diagonal, "hd": diagonal, "assd": diagonal, "nsd": 0.0}
    ours, theirs = surface(predicted, valid), surface(truth, valid)
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
    """(H, W) bools of a mask and of the pixels that count -> its surface, (H, W) bools."""
    return mask & ~_erode(mask | ~valid, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))


def surface_distances(
    ours: np.ndarray, theirs: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bools of two surfaces, neither empty -> the distances of each pixel of ours to theirs,
    and of theirs to ours, float64.
    """
    if spacing[0] != spacing[1]:
        return _distances_of_points(ours, theirs, spacing)
    # The window around both holds all that matters: distances within it are those of the image.
    both = ours | theirs
    rows, columns = np.flatnonzero(both.any(axis=1)), np.flatnonzero(both.any(axis=0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ours, theirs = ours[window], theirs[window]
    return distances(theirs)[ours] * spacing[0], distances(ours)[theirs] * spacing[0]


def _distances_of_points(
    ours: np.ndarray, theirs: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """`surface_distances` for pixels that are not square, which OpenCV's transform does not know:
    by k-d trees of the surfaces' points.
    """
    from scipy.spatial import cKDTree

    our_points = np.argwhere(ours) * np.array(spacing)
    their_points = np.argwhere(theirs) * np.array(spacing)
    forth, _ = cKDTree(their_points).query(our_points)
    back, _ = cKDTree(our_points).query(their_points)
    return forth, back


def boundary_counts(
    predicted: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    width: float = BOUNDARY_WIDTH,
) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks' boundaries: Boundary IoU (Cheng et
    al. 2021) is their quotient.

    A mask's boundary is its pixels nearer than `width` of the image's diagonal (whole pixels, 1
    at least; chessboard distance) to the outside.

    Args:
        predicted, truth, valid: as of `surface_scores`.
        width: share of the diagonal.
    """
    if valid is None:
        valid = np.ones(truth.shape, bool)
    pixels = max(1, round(width * float(np.hypot(*truth.shape))))
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    ours = predicted & valid
    ours &= ~_erode(ours | ~valid, kernel)
    theirs = truth & valid
    theirs &= ~_erode(theirs | ~valid, kernel)
    return int((ours & theirs).sum()), int((ours | theirs).sum())


def _erode(mask: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Erosion of (H, W) bools with nothing beyond the edges of the image."""
    eroded = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return eroded > 0
