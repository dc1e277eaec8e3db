"""Squared products of two ReLUs (ReLU-KAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.bases.base import BASES, check_at_least
from kanseg.bases.located import Located, Wave


@BASES.register("relu")
class ReLUBumps(Located):
    """[relu(e_i - u) relu(u - s_i)]^2 * 16 / (e_i - s_i)^4: bumps of height 1 between s_i and e_i
    (Qiu 2024, arXiv:2406.02075).

    Initially s_i = (i - k) / g and e_i = s_i + (k + 1) / g, i = 0..g + k - 1; K = g + k. The start
    s_i (`location`) and the logarithm of the width (`log_scale`) are trained per channel, so that
    e_i > s_i always holds.

    Args:
        channels: C.
        grid_size: g >= 1.
        order: k >= 0.
        trainable: whether starts and widths are parameters.
        domain: sigmoid by default, which maps all inputs to [0, 1], the range of the bumps.
    """

    support = 0.0, 1.0
    # The second derivative jumps by 32 at both ends, which may be inside an interval of the table.
    table_density = 100.0

    def __init__(
        self,
        channels: int,
        *,
        grid_size: int = 5,
        order: int = 3,
        trainable: bool = True,
        domain: str = "sigmoid",
    ):
        check_at_least("grid_size", grid_size, 1)
        check_at_least("order", order, 0)
        super().__init__(channels, grid_size + order, domain, trainable=trainable)
        self.grid_size, self.order = grid_size, order
        self.reset_parameters()

    def start(self) -> tuple[Tensor, Tensor]:
        indices = torch.arange(self.num_functions, dtype=torch.float64, device="cpu")
        start = (indices - self.order) / self.grid_size
        return start, torch.full_like(start, (self.order + 1) / self.grid_size)

    def mother(self, t: Tensor) -> Wave:
        # t = (u - s) / (e - s) is in [0, 1] on the bump, so no small width is raised to a power.
        root = torch.relu(t) * torch.relu(1 - t)
        return 16 * root.square(), lambda: 32 * root * (1 - 2 * t)
