"""Scores by the protocol of U-KAN's published tables, to compare with these and for nothing else:
they depend on batch size and order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kanseg.utils.errors import InputError

SMOOTH = 1e-5


def u_kan_scores(intersections: np.ndarray, unions: np.ndarray, batch_size: int) -> dict[str, Any]:
    """Mean over batches, weighted by their sizes, of (intersection + 1e-5) / (union + 1e-5) of all
    pixels and classes of a batch.

    As `iou_score` and `AverageMeter` in utils and metrics of github.com/CUHK-AIM-Group/U-KAN, where
    Dice is 2 IoU / (IoU + 1) of a batch. An empty batch that is predicted empty scores 1. Ignored
    pixels, which U-KAN does not know, are left out.

    Args:
        intersections, unions: (images, N) pixels of the classes, the background left out, in the
        order of the images.
        batch_size: images a batch; the last one may be smaller.

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
