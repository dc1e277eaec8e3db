"""Gaussian radial basis functions on equally spaced centres (FastKAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.bases.base import BASES, Basis, Terms, aligned, check_at_least, check_range


@BASES.register("rbf")
class GaussianRBF(Basis):
    """exp(-((u - g_j) / h)^2), g_j equally spaced on [lo, hi], h their spacing (Li 2024, arXiv:2405.06721).

    Args:
        channels: C.
        grid_size: K >= 2 centres.
        grid_range: (lo, hi), lo < hi.
        domain: identity by default; FastKAN's own form is instance_norm (images) or layer_norm (vectors).
    """

    def __init__(self, channels: int, *, grid_size: int = 8, grid_range: tuple[float, float] = (-2.0, 2.0), domain: str = "identity"):
        check_at_least("grid_size", grid_size, 2)
        lo, hi = check_range(grid_range)
        super().__init__(channels, grid_size, domain)
        start = torch.full((channels,), lo, dtype=torch.float64)
        step = torch.full((channels,), (hi - lo) / (grid_size - 1), dtype=torch.float64)
        self.register_buffer("start", start.to(torch.get_default_dtype()))
        self.register_buffer("step", step.to(torch.get_default_dtype()))

    def terms(self, u: Tensor, slopes: bool = False) -> Terms:
        start, step = aligned(self.start, u), aligned(self.step, u)
        position = (u - start) / step
        scale = -2 / step
        for j in range(self.num_functions):
            distance = position - j
            value = (distance * distance).neg_().exp_()
            yield value, (distance * value).mul_(scale) if slopes else None
