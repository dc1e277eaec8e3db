"""B-splines on a uniform grid, in closed form."""

from __future__ import annotations

from math import comb, factorial

import torch
from torch import Tensor

from kanseg.bases.base import BASES, Basis, check_at_least, check_range, per_function


@BASES.register("bspline")
class BSpline(Basis):
    """B-splines of order k on G equal intervals of [lo, hi]: K = G + k functions, zero far outside the grid.

    Knots lo + (i - k) h for i = 0..G + 2k, h = (hi - lo) / G. Each function is the cardinal B-spline around its centre,
    `beta_k(a) = 1/k! sum_j (-1)^j C(k+1, j) relu((k+1)/2 - j - |a|)^k` (Schoenberg 1946; de Boor, A Practical Guide to
    Splines, ch. IX), which needs no recursion and no division. On [lo, hi] the functions sum to 1.

    Args:
        channels: C.
        grid_size: G >= 1 intervals.
        spline_order: k, 0 to 5 (0 has zero gradient everywhere: piecewise constant).
        grid_range: (lo, hi), lo < hi.
        domain: identity by default.
    """

    def __init__(self, channels: int, *, grid_size: int = 5, spline_order: int = 3, grid_range: tuple[float, float] = (-1.0, 1.0), domain: str = "identity"):
        check_at_least("grid_size", grid_size, 1)
        check_at_least("spline_order", spline_order, 0, 5)
        lo, hi = check_range(grid_range)
        super().__init__(channels, grid_size + spline_order, domain)
        self.spline_order = spline_order
        step = (hi - lo) / grid_size
        centers = lo + step * (torch.arange(self.num_functions, dtype=torch.float64) + (1 - spline_order) / 2)
        self.register_buffer("centers", centers.to(torch.get_default_dtype()))
        self.register_buffer("step", torch.tensor(step, dtype=torch.float64).to(torch.get_default_dtype()))

    def functions(self, u: Tensor) -> Tensor:
        order = self.spline_order
        position = (u.unsqueeze(2) - per_function(self.centers, u)) / self.step.to(u.dtype)
        if order == 0:
            return self._indicators(position)
        distance = position.abs()
        value = torch.zeros_like(distance)
        for j in range((order + 2) // 2):
            term = torch.relu((order + 1) / 2 - j - distance) ** order
            value = value + term * ((-1) ** j * comb(order + 1, j) / factorial(order))
        return value

    @staticmethod
    def _indicators(position: Tensor) -> Tensor:
        """Half-open intervals; the last one is closed, so that the functions sum to 1 on all of [lo, hi]."""
        inside = (position >= -0.5) & (position < 0.5)
        last = inside[:, :, -1:] | (position[:, :, -1:] == 0.5)
        return torch.cat([inside[:, :, :-1], last], dim=2).to(position.dtype)
