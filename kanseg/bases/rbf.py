"""Gaussian radial basis functions on equally spaced centres (FastKAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from kanseg.bases.base import BASES, Basis, check_at_least, check_range, per_function


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
        centers = torch.linspace(lo, hi, grid_size, dtype=torch.float64)
        self.register_buffer("centers", centers.to(torch.get_default_dtype()))
        self.register_buffer("step", torch.tensor((hi - lo) / (grid_size - 1), dtype=torch.float64).to(torch.get_default_dtype()))

    def functions(self, u: Tensor) -> Tensor:
        distance = (u.unsqueeze(2) - per_function(self.centers, u)) / self.step.to(u.dtype)
        return torch.exp(-distance.square())
