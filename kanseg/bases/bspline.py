"""B-splines: in closed form on a uniform grid, by the Cox-de Boor recursion on an adapted one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanseg.bases.base import (
    BASES,
    Basis,
    TableRange,
    ValuesAndDerivatives,
    assume_constant_result,
    change_of_basis,
    check_at_least,
    check_range,
    constant_dtype,
    write_buffer,
)
from kanseg.bases.bspline_formulas import assert_uniform, closed_form, indicators, recursion

# Weight of a uniform grid in an adapted one, whose other part are the quantiles of the data. As in
# efficient-kan and pykan it prevents empty intervals.
UNIFORM_WEIGHT = 0.02
# Intervals of a table per interval between knots, by spline order.
PIECES = {2: 32, 3: 8, 4: 4, 5: 4}
_INNER_POINTS = (torch.arange(6, dtype=torch.float64) + 0.5) / 6


class CheckedKnots(NamedTuple):
    """The knots that were checked last, and the result."""

    tensor: Tensor | None
    version: int | None  # version counter of the tensor, None for inference tensors
    values: Tensor | None  # a copy; on a CPU only, where comparing it is cheap
    uniform: bool


@BASES.register("bspline")
class BSpline(Basis):
    """B-splines of order k on G intervals of [lo, hi]: K = G + k functions, zero far outside the
    grid, of sum 1 on [lo, hi].

    The knots are lo + (i - k) h for i = 0..G + 2k, h = (hi - lo) / G. On such a uniform grid each
    function is the cardinal B-spline around its center, `beta_k(a) = 1/k! sum_j (-1)^j C(k+1, j)
    relu((k+1)/2 - j - |a|)^k` (Schoenberg 1946; de Boor, A Practical Guide to Splines, ch. IX),
    which needs no recursion and no division. Knots that were adapted to data (see
    `kanseg.layers.grids`) use the recursion, which is also correct for uniform knots.

    The values of the knots decide which formula is used. They are checked when they are created,
    loaded or moved, and after every change. Where their values cannot be read (`torch.func.vmap`,
    an exporter), the closed form is used only if the tensor is the one that was checked;
    `torch.compile` recompiles when it is replaced. A compiled graph cannot detect knots that are
    overwritten in place without `load_state_dict`: run the module once uncompiled after that.

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
        # They differ after a refinement that extends the grid by its tails. Moving the grid keeps
        # both, so that its size depends on the refinements only.
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
        if not self.knots.is_meta:  # a stored description can ask for more knots than fit in memory
            steps = torch.arange(-k, self.grid_size + k + 1, dtype=torch.float64, device="cpu")
            knots = lo + steps * (hi - lo) / self.grid_size
            write_buffer(self, "knots", knots.repeat(self.channels, 1))
        self._check_knots(uniform=True)

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        if self.spline_order == 0:
            return indicators(self.knots, u)
        if not self.uniform:
            return recursion(self.knots, self.spline_order, u, derivatives)
        # torch.export keeps the knots that it traced; a compiled graph reads them in every call.
        is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)
        if torch.compiler.is_dynamo_compiling() and not is_exporting():
            assert_uniform(self.knots)
        return closed_form(self.knots, self.spline_order, u, derivatives)

    def grid_limits(self) -> tuple[Tensor, Tensor]:
        return self.knots[:, self.spline_order], self.knots[:, -self.spline_order - 1]

    @property
    def has_table(self) -> bool:
        """False for orders 0 and 1, whose jumps and corners a table cannot represent."""
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
        pieces = self.grid_size + 2 * k
        if k > 3:  # up to order 3 the functions are cubic between the knots
            pieces *= PIECES[k]
        return TableRange(lo, hi, pieces)

    @torch.no_grad()
    def update_grid(self, samples: Tensor) -> Tensor:
        old = self._values(samples)
        samples = samples.double()
        lo, hi = samples.amin(1), samples.amax(1)
        # Wide enough to keep the knots distinct in float32, even if all values of a channel are
        # equal and far from 0.
        margin = 0.01 * torch.maximum((hi - lo).clamp_min(0.1), torch.maximum(lo.abs(), hi.abs()))
        lo, hi = lo - margin, hi + margin
        fractions = torch.linspace(
            0, 1, self.grid_size + 1, dtype=torch.float64, device=samples.device
        )
        uniform = lo.unsqueeze(1) + (hi - lo).unsqueeze(1) * fractions
        grid = torch.quantile(samples, fractions, dim=1).T
        grid[:, 0], grid[:, -1] = lo, hi
        self._set_grid(torch.lerp(grid, uniform, UNIFORM_WEIGHT), (hi - lo) / self.grid_size)
        return change_of_basis(old, self._values(samples))

    def check_finer(self, grid_size: int) -> None:
        """Raise ValueError unless `grid_size` is a multiple of the current number of intervals (of
        the range before any extension).
        """
        is_integer = isinstance(grid_size, int)
        if not is_integer or grid_size < self.nominal_size or grid_size % self.nominal_size:
            raise ValueError(
                f"the new grid_size must be a multiple of the current {self.nominal_size}, got"
                f" {grid_size!r}"
            )

    @torch.no_grad()
    def refine(self, grid_size: int, *, keep_tails: bool = True) -> Tensor:
        self.check_finer(grid_size)
        k, times = self.spline_order, grid_size // self.nominal_size
        knots = self.knots.double()
        inside = knots
        if not keep_tails:
            inside = knots[:, k : knots.shape[1] - k]
        steps = torch.arange(times, dtype=torch.float64, device=knots.device) / times
        finer = torch.cat([_within_intervals(inside, steps), inside[:, -1:]], dim=1)
        points = _within_intervals(finer, _INNER_POINTS.to(finer))
        old = self._values(points)
        step = (inside[:, -1] - inside[:, 0]) / (inside.shape[1] - 1) / times
        if keep_tails:
            # The extended grid contains all refined splines completely.
            lo, hi = self.grid_range
            tail = (hi - lo) / self.grid_size * k * (1 - 1 / times)
            self.grid_range = (lo - tail, hi + tail)
            self._set_grid(finer[:, k : finer.shape[1] - k], step, knots=finer)
        else:
            self._set_grid(finer, step)
        self.nominal_size = grid_size
        return change_of_basis(old, self._values(points))

    def _values(self, samples: Tensor) -> Tensor:
        """Values of the functions at samples (C, n): (C, K, n), in double precision."""
        exact = copy.deepcopy(self).double()
        return exact.functions(samples.double().unsqueeze(0))[0]

    def _set_grid(self, grid: Tensor, step: Tensor, knots: Tensor | None = None) -> None:
        """Set the grid (C, G + 1), with k further knots on either side: at distances `step` (C,),
        or those of `knots`.
        """
        k = self.spline_order
        if knots is None:
            counts = torch.arange(1, k + 1, dtype=grid.dtype, device=grid.device)
            offsets = step.unsqueeze(1) * counts
            knots = torch.cat([grid[:, :1] - offsets.flip(1), grid, grid[:, -1:] + offsets], dim=1)
        self.grid_size = grid.shape[1] - 1
        self.num_functions = self.grid_size + k
        write_buffer(self, "knots", knots)
        self._check_knots()

    @property
    def uniform(self) -> bool:
        """True if the knots of every channel are known to be equally spaced.

        False for trained knots, and if their values are unknown and cannot be read.
        """
        if self.knots.requires_grad:  # the closed form only has a gradient for the outermost knots
            return False
        knots, checked = self.knots, self._checked
        if torch.compiler.is_dynamo_compiling():
            # The comparison and the result become guards of the compiled graph.
            return knots is checked.tensor and checked.uniform and self._uniform_when_traced()
        if knots is checked.tensor and self._unchanged():
            return checked.uniform
        fake_mode = getattr(knots, "fake_mode", None)
        if fake_mode is not None and type(checked.tensor) is Tensor:
            # An exporter replaces each tensor by a fake tensor, always by the same one.
            fake = fake_mode.from_tensor(checked.tensor, static_shapes=True)
            return checked.uniform and self._unchanged() and fake is knots
        is_batched = torch._C._are_functorch_transforms_active()
        if is_batched or _is_recorded() or not _is_readable(knots):
            return False
        self._check_knots()
        return self._checked.uniform

    def _check_knots(self, uniform: bool | None = None) -> None:
        """Store the current knots and whether they are uniform: the argument if it is given, else
        by their values; unchanged if the values cannot be read.
        """
        knots = self.knots
        is_readable = _is_readable(knots)
        if uniform is None and is_readable:
            uniform = equally_spaced(knots)
        elif uniform is None:
            uniform = self._checked.uniform
        version = values = None
        if not knots.is_inference():  # inference tensors count no versions
            version = knots._version
        if is_readable and knots.device.type == "cpu":  # `knots.data.copy_` changes no version
            values = knots.detach().clone()
        self._checked = CheckedKnots(knots, version, values, uniform)

    def _unchanged(self) -> bool:
        """True if the checked tensor still has the same values, as far as this is known without
        waiting for an accelerator.
        """
        checked = self._checked
        if checked.values is not None and not _is_recorded():
            return torch.equal(self.knots, checked.values)
        return checked.version is not None and self.knots._version == checked.version

    @assume_constant_result
    def _uniform_when_traced(self) -> bool:
        if _is_readable(self.knots) and not _is_recorded():
            return equally_spaced(self.knots)
        return self._checked.uniform and self._unchanged()

    def _load_from_state_dict(self, *arguments: object, **named: object) -> None:
        super()._load_from_state_dict(*arguments, **named)
        self._check_knots()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BSpline:
        uniform = self.uniform
        super()._apply(fn, recurse)
        self._check_knots(uniform)
        return self

    def select_channels(self, source: Tensor) -> None:
        super().select_channels(source)
        self._check_knots()

    def __getstate__(self) -> dict[str, object]:
        """Store the result only: copies and pickles have other tensors, which are checked again."""
        known = None
        if self.knots is self._checked.tensor and self._unchanged():
            known = self._checked.uniform
        return {**self.__dict__, "_checked": known}

    def __setstate__(self, state: dict[str, object]) -> None:
        # Pickles of earlier versions have "_seen".
        state = dict(state)
        known = state.pop("_seen", None)
        known = state.get("_checked", known)
        if not isinstance(known, bool):
            known = None
        super().__setstate__({**state, "_checked": CheckedKnots(None, None, None, known is True)})
        self._check_knots(known)


def _within_intervals(knots: Tensor, fractions: Tensor) -> Tensor:
    """Points at fractions (n,) of each interval between knots (C, m): (C, (m - 1) * n)."""
    lengths = knots.diff(dim=1)
    return (knots[:, :-1, None] + lengths[..., None] * fractions).flatten(1)


def equally_spaced(knots: Tensor) -> bool:
    """True if knots (C, n) are a uniform grid, up to rounding in float32."""
    exact = knots.detach().cpu().double()
    first, last = exact[:, :1], exact[:, -1:]
    count = exact.shape[1] - 1
    step = (last - first) / count
    even = first + step * torch.arange(count + 1, dtype=exact.dtype, device="cpu")
    rounding = 4 * torch.finfo(torch.float32).eps * torch.maximum(first.abs(), last.abs())
    return bool(((exact - even).abs() <= torch.minimum(rounding, 1e-4 * step)).all())


def _is_recorded() -> bool:
    """True while operations are recorded or replaced, so that results may have no values."""
    return torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0


def _is_readable(knots: Tensor) -> bool:
    """True if the values can be read: not for meta tensors, fake tensors and shards."""
    return type(knots) in (Tensor, nn.Parameter) and not knots.is_meta
