"""Base class of all bases: a domain map, then K functions of the mapped value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanseg.bases.domains import DOMAINS, POINTWISE_DOMAINS, Pointwise
from kanseg.utils.registry import Registry

BASES: Registry[type[Basis]] = Registry("basis")
NORMAL_POINTS = 4096  # points of equal mass under N(0, 1), for moments
MAX_VALUES = 1 << 25  # function values that are computed together for moments
FAR = 1e12  # inputs are clipped to this magnitude where infinity would give NaN
ValuesAndDerivatives = Iterator[tuple[Tensor, Tensor | None]]


class TableRange(NamedTuple):
    """Range in which functions can be tabulated by cubic interpolation on `pieces` equal intervals.

    Interpolation at four nodes per interval has a relative error of at most about 5e-5 (h^4 / 1536
    times the fourth derivative, for intervals of length h).

    Args:
        lo, hi: ends of the range of the mapped input, per channel (C,), or (1,) if the functions of
            all channels are the same. Outside the range all functions are 0.
        pieces: number of intervals.
    """

    lo: Tensor
    hi: Tensor
    pieces: int


class Basis(nn.Module, ABC):
    """K univariate functions of every channel: (B, C, *S) -> (B, C, K, *S), S of 0 to 3 axes.

        y_cj = B_j(u(x_c))

    with a domain map u and the functions B_1, ..., B_K of the family. Subclasses implement
    `values_and_derivatives`. Half-precision input is computed in float32 (a cubic B-spline in
    bfloat16 has an error of 0.012) and returned in its own precision.

    Args:
        channels: C, for the families whose functions have parameters per channel.
        num_functions: K.
        domain: name of the map u: identity, tanh, half_tanh (tanh(x / 2)), sigmoid, instance_norm
            (per sample and channel) or layer_norm (per sample). None of them depends on other
            samples of the batch.

    Raises:
        ValueError: an unknown domain.
    """

    # 0 if the first function is constant in x (degree 0 of a polynomial family), else None.
    constant_function: int | None = None
    # True if `values_and_derivatives` returns derivatives; otherwise autograd computes them.
    has_derivatives = True
    # Names of the parameters with gradients by `parameter_gradients`; others are left to autograd.
    analytic_parameters: tuple[str, ...] = ()
    # Largest degree if all functions are polynomials of the mapped input.
    polynomial_degree: int | None = None
    # True if the functions have a grid that can be adapted to the data.
    has_grid = False
    # True if a table represents the functions to single precision, where `table_range` is not None.
    has_table = False
    # Names of the parameters and buffers that have a row for each channel.
    per_channel: tuple[str, ...] = ()

    def __init__(self, channels: int, num_functions: int, domain: str):
        super().__init__()
        if domain not in DOMAINS:
            raise ValueError(
                f"unknown domain {domain!r} for {type(self).__name__} (known: {', '.join(DOMAINS)})"
            )
        self.channels = channels
        self.num_functions = num_functions
        self.domain = domain

    @abstractmethod
    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        """Yield value and derivative of each of the K functions in turn.

        Args:
            u: the mapped input (B, C, *S), float32 or float64.
            derivatives: whether to compute the derivatives, which are None otherwise.

        Yields:
            (B_j(u), dB_j/du), both of the shape of u or such that they broadcast to it.
        """

    def parameter_gradients(self, j: int, weighted: Tensor, u: Tensor) -> dict[str, Tensor]:
        """Gradient of column j of each of the `analytic_parameters` (C, K) by name, for weighted =
        (gradient of value j) * (derivative of j at u).
        """
        raise ValueError(f"{type(self).__name__} has no formulas for gradients of its parameters")

    def functions(self, u: Tensor) -> Tensor:
        """Values of all K functions at the mapped input: (B, C, *S) -> (B, C, K, *S)."""
        values = [value.expand_as(u) for value, _ in self.values_and_derivatives(u)]
        return torch.stack(values, dim=2)

    def values_at(self, u: Tensor) -> Tensor:
        """Values of all functions at separate points of each channel: (C, n) -> (C, K, n)."""
        return self.functions(u.unsqueeze(0))[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, K, *S), in the dtype of x."""
        with without_autocast(x):
            return self.functions(self.mapped(x)).to(x.dtype)

    def mapped(self, x: Tensor) -> Tensor:
        """The domain map: (B, C, *S) -> the same shape, at least float32."""
        return DOMAINS[self.domain](at_least_float32(x))

    @property
    def has_degree(self) -> bool:
        """True if the degree can be raised without changing the function."""
        return type(self).raise_degree is not Basis.raise_degree

    @property
    def is_pointwise(self) -> bool:
        """True if the domain map acts on single values; False if it normalizes samples."""
        return self.domain in POINTWISE_DOMAINS

    def normalized(self, x: Tensor) -> Tensor:
        """The input of the fused kernels: x (B, C, *S) after a normalizing domain map.

        Pointwise maps are applied by the kernels themselves (`pointwise_map`); for these it is x
        itself.
        """
        if self.is_pointwise:
            return x
        with without_autocast(x):
            return DOMAINS[self.domain](at_least_float32(x)).to(x.dtype)

    @property
    def pointwise_map(self) -> Pointwise:
        """The rest of the domain map after `normalized`: the identity for a normalizing map."""
        return POINTWISE_DOMAINS.get(self.domain, POINTWISE_DOMAINS["identity"])

    def reset_parameters(self) -> None:
        """Reset grids, locations and other parameters to their initial values.

        A number of functions changed by `refine` or `raise_degree` is kept.
        """

    def set_channels(self, channels: int) -> None:
        """Change the number of channels; channel i gets the functions of channel i mod the old
        number.
        """
        if channels != self.channels:
            self.select_channels(torch.arange(channels) % self.channels)

    def select_channels(self, source: Tensor) -> None:
        """Change the channels: channel i gets the functions of the old channel source[i], (C',)."""
        for name in self.per_channel:
            old = getattr(self, name)
            new = old.detach()[source.to(old.device)]
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(self, name, new)
        self.channels = len(source)

    def grid_limits(self) -> tuple[Tensor, Tensor]:
        """Ends of the grid of each channel, (C,) and (C,)."""
        raise ValueError(f"{type(self).__name__} has no grid")

    def table_range(self) -> TableRange | None:
        """Range of a table of the functions.

        None if they cannot be tabulated, or if this depends on values of meta or fake tensors.
        """
        return None

    def update_grid(self, samples: Tensor) -> Tensor:
        """Move the grid to samples (C, n) of the mapped input; return the change of basis (see
        `refine`), a least-squares fit on the samples.
        """
        raise ValueError(f"{type(self).__name__} has no grid to update")

    def refine(self, grid_size: int, *, keep_tails: bool = True) -> Tensor:
        """Make the grid finer; return the change of basis (C, K, K'): old_i = sum_j change[c, i, j]
        new_j.
        """
        raise ValueError(
            f"{type(self).__name__} has no nested grids: only B-splines can be refined without"
            " changing the function"
        )

    def raise_degree(self, degree: int) -> Tensor:
        """Raise the degree; return the change of basis (see `refine`)."""
        raise ValueError(f"{type(self).__name__} has no degree to raise")

    def _append_degrees(self, degree: int) -> Tensor:
        """`raise_degree` for families in which a higher degree only appends functions."""
        check_at_least("the new degree", degree, self.degree)
        change = torch.eye(self.num_functions, degree + 1, dtype=torch.float64).unsqueeze(0)
        self.degree, self.num_functions = degree, degree + 1
        return change

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Basis:
        """Move and cast the module, but keep grids and other constants in float32 or better:
        rounding them in `.half()` would distort the functions.
        """
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, exact in before.items():
            if self._buffers[name].dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = exact.to(self._buffers[name].device)
        return self

    @torch.no_grad()
    def second_moments(self) -> Tensor:
        """E[B_j(u(x))^2] for x ~ N(0, 1), averaged over channels: (K,), float64 on the device of
        the basis.

        A normalizing domain map is the identity on such inputs.
        """
        # In chunks of points: a locally connected layer has tens of thousands of channels.
        count = max(1, MAX_VALUES // (self.channels * self.num_functions))
        total = 0
        for points in self._normal_points().split(count):
            total = total + self._values_at(points).square().sum(dim=(0, 2))
        return total / (self.channels * NORMAL_POINTS)

    @torch.no_grad()
    def normal_values(self) -> Tensor:
        """All functions at 4096 points of equal mass under N(0, 1): (C, K, 4096), float64 on the
        device of the basis.
        """
        return self._values_at(self._normal_points())

    def _normal_points(self) -> Tensor:
        masses = (torch.arange(NORMAL_POINTS, dtype=torch.float64) + 0.5) / NORMAL_POINTS
        return torch.special.ndtri(masses)

    def _values_at(self, points: Tensor) -> Tensor:
        """All functions at the points x (n,), before a pointwise domain map: (C, K, n), float64."""
        x = points.expand(1, self.channels, -1)
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                x = at_least_float32(x.to(tensor))
                break
        if self.is_pointwise:
            x = DOMAINS[self.domain](x)
        return self.functions(x)[0].double()

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, num_functions={self.num_functions}, domain={self.domain!r}"
        )


def check_floating(x: Tensor) -> None:
    """Raise ValueError for integer, boolean and complex tensors."""
    if not x.dtype.is_floating_point:
        raise ValueError(
            f"expected a floating-point tensor, got {x.dtype}: convert it first, for example with"
            " x.float()"
        )


def has_autocast(x: Tensor) -> bool:
    """True if autocast exists on the device of x; there is none on the meta device."""
    return torch.amp.is_autocast_available(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Context in which operations on the device of x compute in the precision of their inputs."""
    kind = x.device.type
    if not has_autocast(x):
        return nullcontext()
    # A traced graph may run under autocast later.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def replace_values(parameter: nn.Parameter, values: Tensor) -> None:
    """Give a parameter values of another shape, and drop its gradient. It stays the same object,
    which optimizers hold.
    """
    parameter.grad = None
    # A loss that is still referenced keeps the parameter's gradient accumulator, which expects the
    # old shape. Autograd makes a new one only if the dtype changes.
    other = torch.float32 if values.dtype == torch.float16 else torch.float16
    parameter.data = values.new_empty(0, dtype=other)
    parameter.data = values


def assume_constant_result(function: Callable) -> Callable:
    """Mark a function whose result `torch.compile` may compute once and keep as a constant.

    The mark is that of `torch.compiler.assume_constant_result`, which imports all of torch._dynamo
    (2 s of CPU time at every start of kanseg).
    """
    function._dynamo_marked_constant = True
    return function


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 if it has half precision, else x itself; ValueError for integers."""
    check_floating(x)
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    return x


def constant_dtype() -> torch.dtype:
    """The dtype of grids: torch's default dtype, but at least float32."""
    default = torch.get_default_dtype()
    if default in (torch.float16, torch.bfloat16):
        return torch.float32
    return default


def finite_part(u: Tensor) -> Tensor:
    """u clipped to +-`FAR`, so that functions that vanish at infinity do not compute inf * 0; NaN
    stays NaN.
    """
    return u.clamp(-FAR, FAR)


def write_buffer(module: nn.Module, name: str, values: Tensor) -> None:
    """Write values into a buffer in place, so that DistributedDataParallel and compiled graphs,
    which hold the same tensor, see them.

    The buffer is replaced only if the shape changes, or if it is an inference tensor that cannot be
    written to.
    """
    old = getattr(module, name)
    values = values.to(device=old.device, dtype=old.dtype)
    is_read_only = old.is_inference() and not torch.is_inference_mode_enabled()
    if old.shape == values.shape and not is_read_only:
        old.copy_(values)
    else:
        setattr(module, name, values)


def aligned(values: Tensor, u: Tensor) -> Tensor:
    """Reshape values per channel (C,) to (C, 1, ..., 1), to broadcast with u (B, C, *S), in its
    dtype.
    """
    return values.to(u.dtype).reshape(-1, *[1] * (u.dim() - 2))


def change_of_basis(old: Tensor, new: Tensor) -> Tensor:
    """The change of basis (C, K, K') with old = change @ new, by least squares.

    Exact up to rounding in double precision if the old functions are combinations of the new ones.
    On the meta device it has no values.

    Args:
        old, new: values (C, K, n) and (C, K', n) of the functions at the same points.
    """
    if old.is_meta or new.is_meta:
        return old.new_empty(len(old), old.shape[1], new.shape[1], device="meta")
    old, new = old.double().cpu().mT, new.double().cpu().mT
    return torch.linalg.lstsq(new, old, driver="gelsd").solution.mT


def check_at_least(name: str, value: int, minimum: int, maximum: int | None = None) -> int:
    """Return the value if it is an integer within the limits, else raise a ValueError."""
    limits = f"at least {minimum}"
    if maximum is not None:
        limits = f"from {minimum} to {maximum}"
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    is_too_large = maximum is not None and is_integer and value > maximum
    if not is_integer or value < minimum or is_too_large:
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")
    return value


def check_range(limits: tuple[float, float]) -> tuple[float, float]:
    """Return (lo, hi) as floats; ValueError unless lo < hi."""
    lo, hi = (float(v) for v in limits)
    if not lo < hi:
        raise ValueError(f"a range must be (lo, hi) with lo < hi, got ({lo}, {hi})")
    return lo, hi
