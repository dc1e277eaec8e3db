"""Squared products of two ReLUs (ReLU-KAN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kanseg.bases.base import BASES, Basis, Terms, aligned, check_at_least


@BASES.register("relu")
class ReLUBumps(Basis):
    """[relu(e_i - u) relu(u - s_i)]^2 * 16 / (e_i - s_i)^4: bumps of height 1 between s_i and e_i (Qiu 2024, arXiv:2406.02075).

    s_i = (i - k) / g and e_i = s_i + (k + 1) / g, i = 0..g + k - 1; K = g + k. They are trained per channel as the start s_i and
    the logarithm of the width, so that e_i > s_i always.

    Args:
        channels: C.
        grid_size: g >= 1.
        order: k >= 0.
        trainable: whether starts and widths are parameters.
        domain: sigmoid by default; it spreads N(0, 1) inputs over [0, 1] and leaves none outside the bumps.
    """

    def __init__(self, channels: int, *, grid_size: int = 5, order: int = 3, trainable: bool = True, domain: str = "sigmoid"):
        check_at_least("grid_size", grid_size, 1)
        check_at_least("order", order, 0)
        super().__init__(channels, grid_size + order, domain)
        start = (torch.arange(self.num_functions, dtype=torch.float64) - order) / grid_size
        width = torch.full_like(start, (order + 1) / grid_size)
        self.start = self._held(start, trainable)
        self.log_width = self._held(width.log(), trainable)

    def _held(self, values: Tensor, trainable: bool) -> Tensor:
        per_channel = values.to(torch.get_default_dtype()).repeat(self.channels, 1)
        return nn.Parameter(per_channel) if trainable else nn.Buffer(per_channel)

    def terms(self, u: Tensor, slopes: bool = False) -> Terms:
        # In t = (u - s) / (e - s) the bump is 16 (t (1 - t))^2 on [0, 1]: no fourth power of a small width.
        for start, log_width in zip(self.start.unbind(1), self.log_width.unbind(1), strict=True):
            rate = torch.exp(-aligned(log_width, u))
            t = (u - aligned(start, u)) * rate
            root = torch.relu(t) * torch.relu(1 - t)
            yield 16 * root.square(), 32 * rate * root * (1 - 2 * t) if slopes else None
