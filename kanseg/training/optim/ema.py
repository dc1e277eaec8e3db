"""The exponential moving average of a network's weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

RISE = 10  # the decay of update t is (1 + t) / (RISE + t) at most


def create_ema(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network whose `update_parameters(model)` moves it towards the weights of now.

    The first update copies; update t then keeps the share min(decay, (1 + t) / (10 + t)) of the
    average, so that the average of a short run is not mostly made of weights that were hardly
    trained. Buffers of floats, the running statistics of batch norms, are averaged as the weights
    are, to which they belong; others (counters) are copied.

    Args:
        model: not wrapped and not compiled.
        decay: share of the average that an update keeps in the long run, from 0 to below 1.
    """
    average = AveragedModel(model, multi_avg_fn=partial(_update, decay), use_buffers=True)
    return average.requires_grad_(False).eval()


def decay_at(update: int, decay: float) -> float:
    """Share of the average that update number `update` keeps, from 1 on (number 0 copies)."""
    return min(decay, (1 + update) / (RISE + update))


@torch.no_grad()
def _update(decay: float, average: list[Tensor], current: list[Tensor], update: Tensor) -> None:
    if average[0].is_floating_point():
        get_ema_multi_avg_fn(decay_at(int(update), decay))(average, current, update)
        return
    for kept, new in zip(average, current, strict=True):
        kept.copy_(new)
