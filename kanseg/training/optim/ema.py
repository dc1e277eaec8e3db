"""The exponential moving average of a network's weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

RAMP = 10  # the decay of update t is at most (1 + t) / (RAMP + t)


def create_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Create an exponential moving average of the weights; `update_parameters(model)` updates it.

    Update 0 copies the weights. Update t keeps a share min(decay, (1 + t) / (10 + t)) of the
    average, so that early, hardly trained weights do not dominate the average of a short run.
    Running statistics of batch norms are averaged like the weights; integer buffers are copied.

    Args:
        model: neither wrapped nor compiled.
        decay: from 0 to below 1.
    """
    average = AveragedModel(model, multi_avg_fn=partial(_update, decay), use_buffers=True)
    return average.requires_grad_(False).eval()


def decay_at(update: int, decay: float) -> float:
    """Return the share of the average that update number `update` (from 1) keeps."""
    return min(decay, (1 + update) / (RAMP + update))


@torch.no_grad()
def _update(decay: float, average: list[Tensor], current: list[Tensor], update: Tensor) -> None:
    if average[0].is_floating_point():
        get_ema_multi_avg_fn(decay_at(int(update), decay))(average, current, update)
        return
    for kept, new in zip(average, current, strict=True):
        kept.copy_(new)
