"""B-splines: in closed form on a uniform grid, by the Cox-de Boor recursion on an adapted one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from math import comb, factorial
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.bases.base import (
    BASES,
    Basis,
    TableRange,
    Terms,
    aligned,
    change_of_basis,
    check_at_least,
    check_range,
    constant_dtype,
    write_buffer,
)

# Share of a uniform grid in one that follows the data, as in efficient-kan and pykan: it keeps
# intervals from vanishing.
UNIFORM_SHARE = 0.02
# Intervals of a table for each interval of the knots, by the degree, wherever the knots are.
PIECES = {2: 32, 3: 8, 4: 4, 5: 4}
_INNER_POINTS = (torch.arange(6, dtype=torch.float64) + 0.5) / 6


@BASES.register("bspline")
class BSpline(Basis):
    """B-splines of order k on G intervals of [lo, hi]: K = G + k functions, zero far outside the
    grid, of sum 1 on [lo, hi].

    Knots lo + (i - k) h for i = 0..G + 2k, h = (hi - lo) / G. On such a uniform grid each function
    is the cardinal B-spline around its centre, `beta_k(a) = 1/k! sum_j (-1)^j C(k+1, j)
    relu((k+1)/2 - j - |a|)^k` (Schoenberg 1946; de Boor, A Practical Guide to Splines, ch. IX),
    which needs no recursion and no division. Knots that were adapted to data (see
    `kanseg.layers.grids`) go through the recursion, which is right for uniform ones too.

    The knots alone decide which formula is taken; nothing beside them is stored. They are looked at
    when they are made, loaded or moved, and again whenever they turn out to be other ones. Where
    their values cannot be read (`torch.func.vmap`, an exporter) the closed form is taken only if
    they are the very tensor that was looked at, and `torch.compile` compiles anew when that
    changes. Overwriting the knots of a compiled module in place, past `load_state_dict`, is the one
    thing that a compiled graph cannot see: run the module once without the compiler then.

    Values and gradients are 0 at infinity and NaN at NaN.

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
        # They differ where a refined grid was widened by its tails.
        self.grid_size = self.nominal_size = grid_size
        self.spline_order = spline_order
        self.grid_range = (lo, hi)
        knots = torch.empty(channels, grid_size + 2 * spline_order + 1, dtype=constant_dtype())
        self.register_buffer("knots", knots)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        k = self.spline_order
        lo, hi = self.grid_range
        steps = torch.arange(-k, self.grid_size + k + 1, dtype=torch.float64, device="cpu")
        knots = lo + steps * (hi - lo) / self.grid_size
        write_buffer(self, "knots", knots.repeat(self.channels, 1))
        self._look_at_knots(uniform=True)

    def terms(self, u: Tensor, slopes: bool = False) -> Terms:
        if self.spline_order == 0:
            return self._indicators(u)
        return self._closed_form(u, slopes) if self.uniform else self._recursion(u, slopes)

    def grid_limits(self) -> tuple[Tensor, Tensor]:
        return self.knots[:, self.spline_order], self.knots[:, -self.spline_order - 1]

    @property
    def has_table(self) -> bool:
        """Not of linear pieces, which have corners at the knots, nor of steps, which have jumps."""
        return self.spline_order >= 2 and not self.knots.requires_grad

    @torch.no_grad()
    def table_range(self) -> TableRange | None:
        k, knots = self.spline_order, self.knots
        if not self.has_table or not _is_readable(knots):
            return None
        lo, hi = knots[:, 0], knots[:, -1]
        if not self.uniform:
            smallest = knots.diff(dim=1).amin(1)
            if not (smallest > 0).all():
                return None
            return TableRange(lo, hi, math.ceil(((hi - lo) / smallest).max() * PIECES[k]))
        if ((lo == lo[0]) & (hi == hi[0])).all():
            lo, hi = lo[:1], hi[:1]
        each = 1 if k <= 3 else PIECES[k]  # up to degree 3 they are cubic between the knots
        return TableRange(lo, hi, (self.grid_size + 2 * k) * each)

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
        if keep_tails:
            lo, hi = self.grid_range
            tail = (hi - lo) / self.grid_size * k * (1 - 1 / times)
            self.grid_range = (lo - tail, hi + tail)
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
        write_buffer(self, "knots", knots)
        self._look_at_knots()

    @property
    def uniform(self) -> bool:
        """Whether the knots of every channel are known to be equally spaced; False also where
        nobody can tell, and for knots that are trained.
        """
        if self.knots.requires_grad:  # the closed form has a gradient for the outermost two only
            return False
        if torch.compiler.is_dynamo_compiling():
            # The comparison and the answer become guards of the compiled graph.
            return self.knots is self._seen[0] and self._seen[3] and self._uniform_when_traced()
        knots = self.knots
        seen, uniform = self._seen[0], self._seen[3]
        if knots is seen and self._unchanged():
            return uniform
        fake_mode = getattr(knots, "fake_mode", None)
        if fake_mode is not None and type(seen) is Tensor:
            # An exporter puts a fake in the place of each tensor, always the same one.
            return uniform and self._unchanged() and _fake_of(seen, fake_mode) is knots
        batched = torch._C._are_functorch_transforms_active()
        if batched or _is_recorded() or not _is_readable(knots):
            return False
        self._look_at_knots()
        return self._seen[3]

    def _look_at_knots(self, uniform: bool | None = None) -> None:
        """Remember the knots of now, and whether they are uniform: found out from their values
        unless it is known, or they have none.
        """
        knots = self.knots
        readable = _is_readable(knots)
        if uniform is None:
            uniform = equally_spaced(knots) if readable else self._seen[3]
        # Tensors made in inference mode count no versions, and `knots.data.copy_` leaves the count
        # alone: on a CPU, where it costs nothing, the values are compared.
        version = None if knots.is_inference() else knots._version
        values = knots.detach().clone() if readable and knots.device.type == "cpu" else None
        self._seen = (knots, version, values, uniform)

    def _unchanged(self) -> bool:
        """Whether the tensor that was looked at holds the same values still, as far as can be told
        without waiting for an accelerator.
        """
        knots, version, values, _ = self._seen
        if values is not None and not _is_recorded():
            return torch.equal(knots, values)
        return version is not None and knots._version == version

    @torch.compiler.assume_constant_result
    def _uniform_when_traced(self) -> bool:
        if _is_readable(self.knots) and not _is_recorded():
            return equally_spaced(self.knots)
        return self._seen[3] and self._unchanged()

    def _load_from_state_dict(self, *arguments: object, **named: object) -> None:
        super()._load_from_state_dict(*arguments, **named)
        self._look_at_knots()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BSpline:
        uniform = self.uniform
        super()._apply(fn, recurse)
        self._look_at_knots(uniform)
        return self

    def set_channels(self, channels: int) -> None:
        super().set_channels(channels)
        self._look_at_knots()

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles have tensors of their own, and look at them."""
        known = self._seen[3] if self.knots is self._seen[0] and self._unchanged() else None
        return {**self.__dict__, "_seen": known}

    def __setstate__(self, state: dict[str, object]) -> None:
        known = state["_seen"] if isinstance(state["_seen"], bool) else None
        super().__setstate__({**state, "_seen": (None, None, None, known is True)})
        self._look_at_knots(known)

    def _closed_form(self, u: Tensor, slopes: bool) -> Terms:
        k = self.spline_order
        if torch.compiler.is_dynamo_compiling() and not _is_exporting():
            self._assert_uniform()
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

    def _assert_uniform(self) -> None:
        """Let a compiled graph fail, not compute something else, where knots were overwritten in
        place past `load_state_dict` (an average that copies buffers).
        """
        steps = self.knots.diff(dim=1)
        mean = (self.knots[:, -1:] - self.knots[:, :1]) / steps.shape[1]
        rounding = 4e-6 * self.knots.abs().amax()
        torch._assert_async(
            ((steps - mean).abs() <= 1e-3 * mean + rounding).all(),
            "the knots of a B-spline were overwritten after the network was compiled: call"
            " torch._dynamo.reset(), or update_grids(..., copies=[...]) for its averages",
        )

    def _recursion(self, u: Tensor, slopes: bool) -> Terms:
        """B_i^m = w_i^m B_i^(m-1) + (1 - w_(i+1)^m) B_(i+1)^(m-1) with w_i^m = (u - t_i) /
        (t_(i+m) - t_i) (de Boor, ch. IX).
        """
        k, knots = self.spline_order, self.knots.to(u.dtype)
        # All functions are 0 beyond the grid; infinity itself would be multiplied by 0.
        first, last = aligned(knots[:, 0], u), aligned(knots[:, -1], u)
        span = last - first
        near = u.clamp(first - span, last + span)
        distances = [near - aligned(knot, u) for knot in knots.unbind(1)]
        values = [
            ((here >= 0) & (there < 0)).to(u.dtype)
            for here, there in zip(distances, distances[1:], strict=False)
        ]
        lower = values
        for order in range(1, k + 1):
            lower = values
            rates = (knots[:, order:] - knots[:, :-order]).reciprocal()
            rising = [
                distances[i] * aligned(rates[:, i], u) * value for i, value in enumerate(lower)
            ]
            values = [rising[i] + lower[i + 1] - rising[i + 1] for i in range(len(lower) - 1)]
        rates = k * (knots[:, k:] - knots[:, :-k]).reciprocal()
        for i, value in enumerate(values):
            if not slopes:
                yield value, None
                continue
            rise, fall = aligned(rates[:, i], u), aligned(rates[:, i + 1], u)
            yield value, rise * lower[i] - fall * lower[i + 1]

    def _indicators(self, u: Tensor) -> Terms:
        """Half-open intervals; the last one is closed, so that the functions sum to 1 on all of
        [lo, hi].
        """
        knots = [aligned(knot, u) for knot in self.knots.unbind(1)]
        nan = torch.where(u.isnan(), u, 0.0)
        for i, (a, b) in enumerate(zip(knots, knots[1:], strict=False)):
            below = u <= b if i + 1 == self.num_functions else u < b
            yield ((u >= a) & below).to(u.dtype) + nan, u.new_zeros(())


def equally_spaced(knots: Tensor) -> bool:
    """Whether knots (C, n) lie where a uniform grid has them, but for rounding in float32."""
    exact = knots.detach().cpu().double()
    first, last = exact[:, :1], exact[:, -1:]
    count = exact.shape[1] - 1
    step = (last - first) / count
    even = first + step * torch.arange(count + 1, dtype=exact.dtype, device="cpu")
    rounding = 4 * torch.finfo(torch.float32).eps * torch.maximum(first.abs(), last.abs())
    return bool(((exact - even).abs() <= torch.minimum(rounding, 1e-4 * step)).all())


def _is_exporting() -> bool:
    """Whether torch.export traces, whose graphs hold the knots that they were traced with."""
    return getattr(torch.compiler, "is_exporting", lambda: False)()


def _is_recorded() -> bool:
    """Whether someone records or replaces the operations, so that their results are no values."""
    return torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def _fake_of(tensor: Tensor, fake_mode: Any) -> Tensor:
    """What stands for a tensor under an exporter; one that it has not met gets a new one."""
    return fake_mode.from_tensor(tensor, static_shapes=True)


def _is_readable(knots: Tensor) -> bool:
    """Whether the values can be looked at: no meta tensor, no fake, no shard."""
    return type(knots) in (Tensor, nn.Parameter) and not knots.is_meta


def _power(x: Tensor, n: int) -> Tensor:
    """x^n for x >= 0 and small n, with 0^0 = 0: the derivative of relu."""
    if n == 0:
        return (x > 0).to(x.dtype)
    result = x
    for _ in range(n - 1):
        result = result * x
    return result
