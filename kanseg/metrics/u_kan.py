"""The scores that U-KAN's tables are made of, to compare with them and for nothing else: they
depend on batch size and order.
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
    starts = range(0, len(intersections), batch_size)
    sizes = [len(intersections[start : start + batch_size]) for start in starts]
    iou = np.array(
        [
            (intersections[s : s + batch_size].sum() + SMOOTH)
            / (unions[s : s + batch_size].sum() + SMOOTH)
            for s in starts
        ]
    )
    means = (
        float(np.average(values, weights=sizes)) if sizes else float("nan")
        for values in (iou, 2 * iou / (iou + 1))
    )
    return {"batch_size": batch_size, **dict(zip(("iou", "dice"), means, strict=True))}
