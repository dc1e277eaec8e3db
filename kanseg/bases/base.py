"""Base class of all bases: a domain map, then K functions of the mapped value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import inf, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kanseg.utils.registry import Registry

BASES: Registry[type[Basis]] = Registry("basis")


def _instance_norm(x: Tensor) -> Tensor:
    """(B, C, *S) -> the same, each channel of each sample with mean 0 and variance 1 over S."""
    if x.dim() < 3:
        raise ValueError(
            f"domain='instance_norm' needs spatial axes, got a tensor of shape {tuple(x.shape)};"
            " use 'layer_norm'"
        )
    _check_varies(x, x.shape[2:], "instance_norm", "pixel of a channel")
    return functional.layer_norm(x, x.shape[2:])


def _layer_norm(x: Tensor) -> Tensor:
    """(B, C, *S) -> the same, each sample with mean 0 and variance 1 over C and S."""
    _check_varies(x, x.shape[1:], "layer_norm", "value of a sample")
    return functional.layer_norm(x, x.shape[1:])


def _check_varies(x: Tensor, normalized: torch.Size, domain: str, what: str) -> None:
    """ValueError where a single number would be normalized: it is its own mean, and becomes 0."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return  # sizes can be symbols there
    if prod(normalized) == 1 and len(x) > 0:
        raise ValueError(
            f"domain={domain!r} makes 0 of every input with one {what}, got a tensor of shape"
            f" {tuple(x.shape)}; use domain='identity' or 'tanh', or larger inputs"
        )


def _tanh(x: Tensor) -> Tensor:
    # By way of the sigmoid: five times faster than torch.tanh on a CPU (0.3 against 1.3 ns a
    # value, measured).
    return torch.sigmoid(2 * x) * 2 - 1


class Pointwise(NamedTuple):
    """A map of single values, u = value(x), and its derivative as a function of u,
    du/dx = derivative(u), None where it is 1; all u are between the limits.
    """

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor] | None
    limits: tuple[float, float]


POINTWISE_DOMAINS: dict[str, Pointwise] = {
    "identity": Pointwise(lambda x: x, None, (-inf, inf)),
    "tanh": Pointwise(_tanh, lambda u: 1 - u * u, (-1.0, 1.0)),
    "half_tanh": Pointwise(
        lambda x: torch.sigmoid(x) * 2 - 1, lambda u: (1 - u * u) / 2, (-1.0, 1.0)
    ),
    "sigmoid": Pointwise(torch.sigmoid, lambda u: u * (1 - u), (0.0, 1.0)),
}
NORMALIZING_DOMAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
}
DOMAINS = {name: domain.value for name, domain in POINTWISE_DOMAINS.items()} | NORMALIZING_DOMAINS
NORMAL_POINTS = 4096  # points of equal mass under N(0, 1), for moments
MAX_VALUES = 1 << 25  # values of functions computed together for moments
FAR = 1e12  # stands for everything beyond it, infinity included
ValuesAndDerivatives = Iterator[tuple[Tensor, Tensor | None]]


class TableRange(NamedTuple):
    """Where functions can be tabulated: on `pieces` equal intervals of [lo, hi], cubic
    interpolation at four places of each is off by at most about 5e-5 of them. Its error is
    h^4 / 1536 of the fourth derivative, for intervals of length h.

    Args:
        lo, hi: of the mapped input, for each channel (C,), or (1,) where the functions of all
            channels are the same. Beyond the range all functions are 0, or repeat.
        pieces: number of intervals.
        periodic: whether they repeat.
    """

    lo: Tensor
    hi: Tensor
    pieces: int
    periodic: bool = False


class Basis(nn.Module, ABC):
    """K univariate functions of every channel: (B, C, *S) -> (B, C, K, *S), S of 0 to 3 axes.

        y_cj = B_j(u(x_c))

    with a domain map u, and the functions B_1, ..., B_K of the family. A subclass states
    `values_and_derivatives`. Half-precision input is computed in float32 (a cubic B-spline in
    bfloat16 is off by 0.012) and returned in the precision it came in.

    Args:
        channels: C, for the families whose functions have parameters per channel.
        num_functions: K.
        domain: name of the map u: identity, tanh, half_tanh (tanh(x / 2)), sigmoid, instance_norm
            (per sample and channel) or layer_norm (per sample). None of them depends on the
            other samples of the batch.

    Raises:
        ValueError: on an unknown domain.
    """

    # 0 if the first function is constant in x (degree 0 of a polynomial family), else None.
    constant_function: int | None = None
    # True if `values_and_derivatives` gives derivatives; without, autograd finds them.
    has_derivatives = True
    # Names of the parameters whose gradients `parameter_gradients` gives; autograd finds others.
    analytic_parameters: tuple[str, ...] = ()
    # Degree of the functions where all are polynomials of the mapped input.
    polynomial_degree: int | None = None
    # True if the functions stand on a grid that can follow the data.
    has_grid = False
    # True if a table holds the functions to single precision, as far as `table_range` has one.
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
        raise ValueError(f"{type(self).__name__} states no gradients of its parameters")

    def functions(self, u: Tensor) -> Tensor:
        """Values of all K functions at the mapped input: (B, C, *S) -> (B, C, K, *S)."""
        return torch.stack(
            [value.expand_as(u) for value, _ in self.values_and_derivatives(u)], dim=2
        )

    def values_at(self, u: Tensor) -> Tensor:
        """Values of all functions at places of each channel's own: (C, n) -> (C, K, n)."""
        return self.functions(u.unsqueeze(0))[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, K, *S), in the dtype of x."""
        with without_autocast(x):
            return self.functions(self.mapped(x)).to(x.dtype)

    def mapped(self, x: Tensor) -> Tensor:
        """The domain map: (B, C, *S) -> the same shape, at least float32."""
        return DOMAINS[self.domain](at_least_float32(x))

    @property
    def is_pointwise(self) -> bool:
        """False if the domain map is a normalization, which needs whole samples."""
        return self.domain in POINTWISE_DOMAINS

    def normalized(self, x: Tensor) -> Tensor:
        """The input of the fused kernels, which apply pointwise maps themselves: x (B, C, *S) after
        a domain map that is a normalization, else x itself.
        """
        if self.is_pointwise:
            return x
        with without_autocast(x):
            return DOMAINS[self.domain](at_least_float32(x)).to(x.dtype)

    def reset_parameters(self) -> None:
        """Put grids, locations and other parameters back to where a new basis has them.

        The number of functions stays as it is, after `refine` and `raise_degree` too.
        """

    def set_channels(self, channels: int) -> None:
        """Change the number of channels; channel i gets the functions of channel i mod the old
        number.
        """
        source = torch.arange(channels) % self.channels
        for name in self.per_channel:
            old = getattr(self, name)
            new = old.detach()[source.to(old.device)]
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(self, name, new)
        self.channels = channels

    def grid_limits(self) -> tuple[Tensor, Tensor]:
        """Ends of the grid of each channel, (C,) and (C,)."""
        raise ValueError(f"{type(self).__name__} has no grid")

    def table_range(self) -> TableRange | None:
        """Range of a table of the functions; None if they cannot be tabulated, or if that depends
        on numbers that cannot be read (of meta and fake tensors).
        """
        return None

    def update_grid(self, samples: Tensor) -> Tensor:
        """Move the grid to samples (C, n) of the mapped input; return the change of basis (see
        `refine`), by least squares on them.
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
        """`raise_degree` for families whose functions of a lower degree are the first ones of a
        higher degree.
        """
        check_at_least("the new degree", degree, self.degree)
        change = torch.eye(self.num_functions, degree + 1, dtype=torch.float64).unsqueeze(0)
        self.degree, self.num_functions = degree, degree + 1
        return change

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Basis:
        """Move and cast as every module, but keep grids and other constants at least in float32:
        `.half()` must not bend the functions.
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
        # A few points at a time: a locally connected layer has tens of thousands of channels.
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
    """ValueError for integers, booleans and complex numbers."""
    if not x.dtype.is_floating_point:
        raise ValueError(
            f"expected a tensor of floating-point numbers, got {x.dtype}: convert it first, as by"
            " x.float()"
        )


def has_autocast(x: Tensor) -> bool:
    """True if autocast exists on the device of x; on the device meta it does not."""
    return torch.amp.is_autocast_available(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which operations on the device of x compute in the precision of their inputs."""
    kind = x.device.type
    if not has_autocast(x):
        return nullcontext()
    # What is traced may run under autocast later.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """x itself, or in float32 when it is of half precision; ValueError for integers."""
    check_floating(x)
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def constant_dtype() -> torch.dtype:
    """The dtype of grids: torch's default, but at least float32; rounded to half precision they
    would bend the functions.
    """
    default = torch.get_default_dtype()
    return torch.float32 if default in (torch.float16, torch.bfloat16) else default


def finite_part(u: Tensor) -> Tensor:
    """u with infinity replaced by a number beyond which functions that vanish are 0, so that none
    of their factors is inf * 0; NaN stays NaN.
    """
    return u.clamp(-FAR, FAR)


def write_buffer(module: nn.Module, name: str, values: Tensor) -> None:
    """Write values into a buffer in place, so that its other holders (DistributedDataParallel, a
    compiled graph) see them.

    It becomes a new tensor only if the shape changes, or if the old one was made in inference mode
    and cannot be written.
    """
    old = getattr(module, name)
    values = values.to(device=old.device, dtype=old.dtype)
    frozen = old.is_inference() and not torch.is_inference_mode_enabled()
    if old.shape == values.shape and not frozen:
        old.copy_(values)
    else:
        setattr(module, name, values)


def aligned(values: Tensor, u: Tensor) -> Tensor:
    """Reshape numbers per channel (C,) for broadcasting with u (B, C, *S): (C, 1, ..., 1), in the
    dtype of u.
    """
    return values.to(u.dtype).reshape(-1, *[1] * (u.dim() - 2))


def change_of_basis(old: Tensor, new: Tensor) -> Tensor:
    """The change of basis (C, K, K') with old = change @ new, by least squares.

    Args:
        old, new: values (C, K, n) and (C, K', n) of the functions at the same points.

    Exact, to rounding in double precision, where the old functions are combinations of the new
    ones.
    """
    solution = torch.linalg.lstsq(
        new.double().cpu().transpose(1, 2), old.double().cpu().transpose(1, 2), driver="gelsd"
    ).solution
    return solution.transpose(1, 2)


def check_at_least(name: str, value: int, minimum: int, maximum: int | None = None) -> int:
    """Return the value if it is an integer within the limits, else raise a ValueError."""
    limits = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    is_too_large = maximum is not None and is_integer and value > maximum
    if not is_integer or value < minimum or is_too_large:
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")
    return value


def check_range(limits: tuple[float, float]) -> tuple[float, float]:
    """(lo, hi) as floats; ValueError unless lo < hi."""
    lo, hi = (float(v) for v in limits)
    if not lo < hi:
        raise ValueError(f"a range must be (lo, hi) with lo < hi, got ({lo}, {hi})")
    return lo, hi
