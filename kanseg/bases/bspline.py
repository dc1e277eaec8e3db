"""B-splines: in closed form on a uniform grid, by the Cox-de Boor recursion on an adapted one."""

from __future__ import annotations

from math import comb, factorial

import torch
from torch import Tensor

from kanseg.bases.base import BASES, Basis, Terms, aligned, check_at_least, check_range


@BASES.register("bspline")
class BSpline(Basis):
    """B-splines of order k on G intervals of [lo, hi]: K = G + k functions, zero far outside the grid, of sum 1 on [lo, hi].

    Knots lo + (i - k) h for i = 0..G + 2k, h = (hi - lo) / G. On such a uniform grid each function is the cardinal B-spline around
    its centre, `beta_k(a) = 1/k! sum_j (-1)^j C(k+1, j) relu((k+1)/2 - j - |a|)^k` (Schoenberg 1946; de Boor, A Practical Guide
    to Splines, ch. IX), which needs no recursion and no division. Knots that were adapted to data (see `kanseg.layers.grids`) go
    through the recursion.

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
        self.grid_size, self.spline_order = grid_size, spline_order
        steps = torch.arange(-spline_order, grid_size + spline_order + 1, dtype=torch.float64)
        self.register_buffer("knots", (lo + steps * (hi - lo) / grid_size).to(torch.get_default_dtype()).repeat(channels, 1))
        self.uniform = True

    def terms(self, u: Tensor, slopes: bool = False) -> Terms:
        if self.spline_order == 0:
            return self._indicators(u)
        return self._closed_form(u, slopes) if self.uniform else self._recursion(u, slopes)

    def _closed_form(self, u: Tensor, slopes: bool) -> Terms:
        k = self.spline_order
        first, last = aligned(self.knots[:, 0], u), aligned(self.knots[:, -1], u)
        # With distances scaled by k!^(-1/k) the powers need no division by k!.
        unit = factorial(k) ** (-1 / k)
        rate = unit * (self.grid_size + 2 * k) / (last - first)
        position = (u - first) * rate
        for i in range(self.num_functions):
            distance = position - unit * (i + (k + 1) / 2)
            side = distance.sign() * (-k * rate) if slopes else None
            reach, value, slope = (unit * (k + 1) / 2 - distance.abs_()).relu_(), 0, 0
            for j in range((k + 2) // 2):
                weight = (-1) ** j * comb(k + 1, j)
                reach = (reach - unit).relu_() if j else reach
                lower = _power(reach, k - 1)
                value = torch.addcmul(value, lower, reach, value=weight) if j else lower * reach
                if slopes:
                    slope = slope + weight * lower
            yield value, slope * side if slopes else None

    def _recursion(self, u: Tensor, slopes: bool) -> Terms:
        k, knots = self.spline_order, [aligned(knot, u) for knot in self.knots.unbind(1)]
        values = [((u >= a) & (u < b)).to(u.dtype) for a, b in zip(knots, knots[1:], strict=False)]
        lower = values
        for order in range(1, k + 1):
            lower = values
            values = [
                (u - knots[i]) / (knots[i + order] - knots[i]) * lower[i]
                + (knots[i + order + 1] - u) / (knots[i + order + 1] - knots[i + 1]) * lower[i + 1]
                for i in range(len(lower) - 1)
            ]
        for i, value in enumerate(values):
            rise, fall = (k / (knots[j + k] - knots[j]) for j in (i, i + 1))
            yield value, rise * lower[i] - fall * lower[i + 1] if slopes else None

    def _indicators(self, u: Tensor) -> Terms:
        """Half-open intervals; the last one is closed, so that the functions sum to 1 on all of [lo, hi]."""
        knots = [aligned(knot, u) for knot in self.knots.unbind(1)]
        for i, (a, b) in enumerate(zip(knots, knots[1:], strict=False)):
            below = u <= b if i + 1 == self.num_functions else u < b
            yield ((u >= a) & below).to(u.dtype), u.new_zeros(())


def _power(x: Tensor, n: int) -> Tensor:
    """x^n for x >= 0 and small n, with 0^0 = 0: the derivative of relu."""
    if n == 0:
        return (x > 0).to(x.dtype)
    result = x
    for _ in range(n - 1):
        result = result * x
    return result
