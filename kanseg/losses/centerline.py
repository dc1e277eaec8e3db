"""clDice: how much of the center lines of prediction and mask lie in each other.

For thin, long structures (vessels, cracks, roads), whose connections matter more than their width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kanseg.losses.inputs import LOSSES, LossInputs


@LOSSES.register("cldice")
def cldice(inputs: LossInputs, *, iterations: int = 10, smooth: float = 1.0) -> Tensor:
    """Soft clDice loss, mean_c 1 - 2 P R / (P + R) (Shit et al. 2021), with

        P_c = sum_i S(p)_ic t_ic / sum_i S(p)_ic      R_c = sum_i S(t)_ic p_ic / sum_i S(t)_ic

    where S is `soft_skeleton`. A class without a pixel in the batch costs 0. Combine it with an
    overlap loss, such as {ce: 0.5, dice: 0.5, cldice: 0.5}: the width of a structure has no part
    in it.

    Args:
        inputs: the batch.
        iterations: of the skeleton; at least half the width in pixels of the widest structure.
        smooth: added to numerators and denominators.
    """
    over_pixels = (0, 2, 3)
    p, t = inputs.probabilities, inputs.one_hot
    skeleton_p = soft_skeleton(p, iterations, inputs.valid)
    skeleton_t = soft_skeleton(t, iterations, inputs.valid)
    precision = _share((skeleton_p * t).sum(over_pixels), skeleton_p.sum(over_pixels), smooth)
    recall = _share((skeleton_t * p).sum(over_pixels), skeleton_t.sum(over_pixels), smooth)
    loss = 1 - 2 * precision * recall / (precision + recall).clamp_min(1e-7)
    return inputs.mean_over_classes(loss * (t.sum(over_pixels) > 0))


def soft_skeleton(x: Tensor, iterations: int, valid: Tensor | None = None) -> Tensor:
    """Return the skeleton of soft masks: what an opening removes, summed over erosions.

    Args:
        x: (B, N, H, W) from 0 to 1, 0 at ignored pixels.
        iterations: number of erosions.
        valid: (B, N or 1, H, W) bools; what is False counts as outside of the image.
    """
    ignored = None if valid is None or valid.all() else ~valid
    eroded = _erode(x, ignored)
    skeleton = F.relu(x - _dilate(eroded))
    for _ in range(iterations):
        x, eroded = eroded, _erode(eroded, ignored)
        removed = F.relu(x - _dilate(eroded))
        skeleton = skeleton + F.relu(removed - skeleton * removed)
    return skeleton


def _erode(x: Tensor, ignored: Tensor | None) -> Tensor:
    """Minimum over each pixel and its four neighbors in the image; 0 at ignored pixels."""
    if ignored is not None:
        x = x.masked_fill(ignored, torch.inf)
    rows = -F.max_pool2d(-x, (3, 1), stride=1, padding=(1, 0))
    columns = -F.max_pool2d(-x, (1, 3), stride=1, padding=(0, 1))
    eroded = torch.minimum(rows, columns)
    return eroded if ignored is None else eroded.masked_fill(ignored, 0)


def _dilate(x: Tensor) -> Tensor:
    """Maximum over each pixel and its eight neighbors in the image."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _share(part: Tensor, whole: Tensor, smooth: float) -> Tensor:
    return (part + smooth) / (whole + smooth).clamp_min(1e-7)
