"""Scores by the protocol of U-KAN's published tables. They depend on batch size and order, so use
them only to compare with these tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kanseg.utils.errors import InputError

SMOOTH = 1e-5


def u_kan_scores(intersections: np.ndarray, unions: np.ndarray, batch_size: int) -> dict[str, Any]:
    """IoU and Dice as means over batches, weighted by their sizes: IoU is
    (intersection + 1e-5) / (union + 1e-5) over all pixels and classes of a batch, Dice is
    2 IoU / (IoU + 1).

    As `iou_score` and `AverageMeter` in metrics.py and utils.py of
    github.com/CUHK-AIM-Group/U-KAN. An empty batch that is predicted empty scores 1. Ignored
    pixels, which U-KAN does not have, are left out.

    Args:
        intersections, unions: (images, N) pixels of the classes without the background, in the
            order of the images.
        batch_size: images per batch; the last batch may be smaller.

    Returns:
        batch_size, iou, dice; NaN without images.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    ious, sizes = [], []
    for start in range(0, len(intersections), batch_size):
        batch = slice(start, start + batch_size)
        ious.append((intersections[batch].sum() + SMOOTH) / (unions[batch].sum() + SMOOTH))
        sizes.append(len(intersections[batch]))
    if not sizes:
        return {"batch_size": batch_size, "iou": float("nan"), "dice": float("nan")}
    iou = np.array(ious)
    return {
        "batch_size": batch_size,
        "iou": float(np.average(iou, weights=sizes)),
        "dice": float(np.average(2 * iou / (iou + 1), weights=sizes)),
    }
