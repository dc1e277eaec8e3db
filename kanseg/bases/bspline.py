"""B-splines: in closed form on a uniform grid, by the Cox-de Boor recursion on an adapted one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import comb, factorial

import torch
from torch import Tensor

from kanseg.bases.base import (
    BASES,
    Basis,
    Terms,
    aligned,
    change_of_basis,
    check_at_least,
    check_range,
)

# Share of a uniform grid in one that follows the data, as in efficient-kan and pykan: it keeps
# intervals from vanishing.
UNIFORM_SHARE = 0.02
_INNER_POINTS = (torch.arange(6, dtype=torch.float64) + 0.5) / 6


@BASES.register("bspline")
class BSpline(Basis):
    """B-splines of order k on G intervals of [lo, hi]: K = G + k functions, zero far outside the
    grid, of sum 1 on [lo, hi].

    Knots lo + (i - k) h for i = 0..G + 2k, h = (hi - lo) / G. On such a uniform grid each function
    is the cardinal B-spline around its centre, `beta_k(a) = 1/k! sum_j (-1)^j C(k+1, j)
    relu((k+1)/2 - j - |a|)^k` (Schoenberg 1946; de Boor, A Practical Guide to Splines, ch. IX),
    which needs no recursion and no division. Knots that were adapted to data (see
    `kanseg.layers.grids`) go through the recursion.

    Args:
        channels: C.
        grid_size: G >= 1 intervals.
        spline_order: k, 0 to 5 (0 has zero gradient everywhere: piecewise constant).
        grid_range: (lo, hi), lo < hi.
        domain: identity by default.
    """

    has_grid = True
    per_channel = ("knots",)

    def __init__(
        self,
        channels: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        domain: str = "identity",
    ):
        check_at_least("grid_size", grid_size, 1)
        check_at_least("spline_order", spline_order, 0, 5)
        lo, hi = check_range(grid_range)
        super().__init__(channels, grid_size + spline_order, domain)
        self.grid_size = self.nominal_size = (
            grid_size  # they differ where a refined grid was widened by its tails
        )
        self.spline_order = spline_order
        steps = torch.arange(-spline_order, grid_size + spline_order + 1, dtype=torch.float64)
        self.register_buffer(
            "knots",
            (lo + steps * (hi - lo) / grid_size).to(torch.get_default_dtype()).repeat(channels, 1),
        )
        self._seen = (self.knots, self.knots._version, True)

    def terms(self, u: Tensor, slopes: bool = False) -> Terms:
        if self.spline_order == 0:
            return self._indicators(u)
        return self._closed_form(u, slopes) if self.uniform else self._recursion(u, slopes)

    def grid_limits(self) -> tuple[Tensor, Tensor]:
        return self.knots[:, self.spline_order], self.knots[:, -self.spline_order - 1]

    @torch.no_grad()
    def update_grid(self, samples: Tensor) -> Tensor:
        old = self._values(samples)
        samples = samples.double()
        lo, hi = samples.amin(1), samples.amax(1)
        # Wide enough that float32 can tell the knots apart, also for a channel of one value far
        # from 0.
        margin = 0.01 * torch.maximum((hi - lo).clamp_min(0.1), torch.maximum(lo.abs(), hi.abs()))
        lo, hi = lo - margin, hi + margin
        shares = torch.linspace(
            0, 1, self.grid_size + 1, dtype=torch.float64, device=samples.device
        )
        even = lo.unsqueeze(1) + (hi - lo).unsqueeze(1) * shares
        grid = torch.quantile(samples, shares, dim=1).T
        grid[:, 0], grid[:, -1] = lo, hi
        self._set_grid(torch.lerp(grid, even, UNIFORM_SHARE), (hi - lo) / self.grid_size)
        return change_of_basis(old, self._values(samples))

    def check_finer(self, grid_size: int) -> None:
        """ValueError unless `grid_size` is a multiple of the present number of intervals (on the
        range before any widening).
        """
        if (
            not isinstance(grid_size, int)
            or grid_size < self.nominal_size
            or grid_size % self.nominal_size
        ):
            raise ValueError(
                f"the new grid_size must be a multiple of the present {self.nominal_size}, got"
                f" {grid_size!r}"
            )

    @torch.no_grad()
    def refine(self, grid_size: int, *, keep_tails: bool = True) -> Tensor:
        self.check_finer(grid_size)
        k, times = self.spline_order, grid_size // self.nominal_size
        knots = self.knots.double()
        inside = knots if keep_tails else knots[:, k : knots.shape[1] - k]
        steps = torch.arange(times, dtype=torch.float64, device=knots.device) / times
        finer = (
            inside[:, :-1, None] + (inside[:, 1:] - inside[:, :-1])[..., None] * steps
        ).flatten(1)
        finer = torch.cat([finer, inside[:, -1:]], dim=1)
        # All splines between the ends of the widened grid; those that would cross them are not
        # needed.
        grid = finer[:, k : finer.shape[1] - k] if keep_tails else finer
        points = (
            finer[:, :-1, None]
            + (finer[:, 1:] - finer[:, :-1])[..., None] * _INNER_POINTS.to(finer)
        ).flatten(1)
        old = self._values(points)
        self._set_grid(
            grid,
            (inside[:, -1] - inside[:, 0]) / (inside.shape[1] - 1) / times,
            knots=finer if keep_tails else None,
        )
        self.nominal_size = grid_size
        return change_of_basis(old, self._values(points))

    def _values(self, samples: Tensor) -> Tensor:
        """(C, n) -> (C, K, n), in double precision."""
        exact = copy.deepcopy(self).double()
        return exact.functions(samples.double().unsqueeze(0))[0]

    def _set_grid(self, grid: Tensor, step: Tensor, knots: Tensor | None = None) -> None:
        """Take over ends of intervals (C, G + 1), with k knots more on either side, `step` (C,)
        apart or as given.
        """
        k = self.spline_order
        if knots is None:
            beyond = step.unsqueeze(1) * torch.arange(
                1, k + 1, dtype=grid.dtype, device=grid.device
            )
            knots = torch.cat([grid[:, :1] - beyond.flip(1), grid, grid[:, -1:] + beyond], dim=1)
        self.grid_size = self.nominal_size = grid.shape[1] - 1
        self.num_functions = self.grid_size + k
        self.knots = knots.to(self.knots)

    @property
    def uniform(self) -> bool:
        """Whether the knots of every channel are equally spaced; found out anew whenever they are
        other ones (loaded, averaged, exchanged).
        """
        knots, version, uniform = self._seen
        unreadable = (
            torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
            or self.knots.is_meta
        )
        if unreadable or (self.knots is knots and self.knots._version == version):
            return uniform
        steps = self.knots.detach().double().diff(dim=1)
        uniform = bool(
            ((steps - steps.mean(1, keepdim=True)).abs() < 1e-4 * steps.mean(1, keepdim=True)).all()
        )
        self._seen = (self.knots, self.knots._version, uniform)
        return uniform

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BSpline:
        uniform = self.uniform
        super()._apply(fn, recurse)
        self._seen = (self.knots, self.knots._version, uniform)
        return self

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
                if not slopes and k in (2, 3):  # squares and cubes are one operation
                    value = torch.add(value, reach.pow(k), alpha=weight) if j else reach.pow(k)
                    continue
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
        """Half-open intervals; the last one is closed, so that the functions sum to 1 on all of
        [lo, hi].
        """
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
