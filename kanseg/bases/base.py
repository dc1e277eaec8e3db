"""The skeleton that every basis fills in: a domain map, then K functions of the mapped value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import inf, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kanseg.registry import Registry

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
    """ValueError where there is one number only: it is its own mean, and whatever it was becomes
    0.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return  # sizes can be symbols there
    if prod(normalized) == 1 and len(x) > 0:
        raise ValueError(
            f"domain={domain!r} makes 0 of every input with one {what}, got a tensor of shape"
            f" {tuple(x.shape)}; use domain='identity' or 'tanh', or larger inputs"
        )


def _tanh(x: Tensor) -> Tensor:
    """By way of the sigmoid, which is five times faster than torch.tanh on a CPU (0.3 against 1.3
    ns a value, measured).
    """
    return torch.sigmoid(2 * x) * 2 - 1


class Pointwise(NamedTuple):
    """A map of single values, u = value(x), its derivative in terms of u: du/dx = slope(u), None
    where it is 1, and between what limits all u are.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor] | None
    limits: tuple[float, float]


POINTWISE_DOMAINS: dict[str, Pointwise] = {
    "identity": Pointwise(lambda x: x, None, (-inf, inf)),
    "tanh": Pointwise(_tanh, lambda u: 1 - u * u, (-1.0, 1.0)),
    "half_tanh": Pointwise(
        lambda x: torch.sigmoid(x) * 2 - 1, lambda u: (1 - u * u) / 2, (-1.0, 1.0)
    ),
    "sigmoid": Pointwise(torch.sigmoid, lambda u: u * (1 - u), (0.0, 1.0)),
}
NORMALISING_DOMAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
}
DOMAINS = {name: domain.value for name, domain in POINTWISE_DOMAINS.items()} | NORMALISING_DOMAINS
NORMAL_POINTS = 4096  # of equal mass, that moments are taken over
AT_ONCE = 1 << 25  # values of functions
FAR = 1e12  # stands for everything beyond it, infinity included
Terms = Iterator[tuple[Tensor, Tensor | None]]


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

    `B_j(u(x))`: a domain map `u`, then the functions of the family. Half-precision input is
    computed in float32 (a cubic B-spline in bfloat16 is off by 0.012) and returned in the precision
    it came in.

    Args:
        channels: C, for the families whose functions have parameters per channel.
        num_functions: K.
        domain: name of the map u: identity, tanh, half_tanh (tanh(x / 2)), sigmoid, instance_norm
            (per sample and channel) or layer_norm (per sample). None of them looks at another
            sample of the batch.

    Raises:
        ValueError: on an unknown domain.
    """

    # 0 where the first function is constant in x (degree 0 of a polynomial family), else None.
    constant_function: int | None = None
    # Whether `terms` gives derivatives when asked.
    states_slopes = True
    # Names of the parameters of which `parameter_gradients` states the gradient; those of others
    # go through autograd.
    stated_parameters: tuple[str, ...] = ()
    # Degree of the functions where all are polynomials of the mapped input.
    polynomial_degree: int | None = None
    # Whether the functions stand on a grid that can follow the data.
    has_grid = False
    # Whether a table holds the functions to single precision, as far as `table_range` has one.
    has_table = False
    # Names of the parameters and buffers with a row for each channel.
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
    def terms(self, u: Tensor, slopes: bool = False) -> Terms:
        """Value and derivative of each of the K functions in turn at the mapped input u (B, C, *S),
        float32 or float64.

        Both are of the shape of u or broadcast to it; the derivative is None unless `slopes` asks
        for it. This is all that a family states.
        """

    def parameter_gradients(self, j: int, weighted: Tensor, u: Tensor) -> dict[str, Tensor]:
        """Gradient of column j of each of the `stated_parameters` (C, K) by name, for weighted =
        (gradient of value j) * (derivative of j at u).
        """
        raise ValueError(f"{type(self).__name__} states no gradients of its parameters")

    def functions(self, u: Tensor) -> Tensor:
        """Values of all K functions at the mapped input: (B, C, *S) -> (B, C, K, *S)."""
        return torch.stack([value.expand_as(u) for value, _ in self.terms(u)], dim=2)

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
        """False where the domain map is a normalization, which needs whole samples."""
        return self.domain in POINTWISE_DOMAINS

    def normalized(self, x: Tensor) -> Tensor:
        """x (B, C, *S) after the domain map where that is a normalization, else x itself: what the
        fused kernels see, which do the pointwise maps themselves.
        """
        if self.is_pointwise:
            return x
        with without_autocast(x):
            return DOMAINS[self.domain](at_least_float32(x)).to(x.dtype)

    def reset_parameters(self) -> None:
        """Put the functions back to where they were built: grids, places, denominators.

        The number of functions stays that of now, after `refine` and `raise_degree` too. Families
        whose functions have no parameters and no grid have nothing to put back.
        """

    def set_channels(self, channels: int) -> None:
        """Go over to another number of channels; channel i gets the functions of channel i mod the
        old number.
        """
        source = torch.arange(channels) % self.channels
        for name in self.per_channel:
            old = getattr(self, name)
            new = old.detach()[source.to(old.device)]
            setattr(
                self,
                name,
                (
                    nn.Parameter(new, requires_grad=old.requires_grad)
                    if isinstance(old, nn.Parameter)
                    else new
                ),
            )
        self.channels = channels

    def grid_limits(self) -> tuple[Tensor, Tensor]:
        """Ends of the grid of each channel, (C,) and (C,)."""
        raise ValueError(f"{type(self).__name__} has no grid")

    def table_range(self) -> TableRange | None:
        """Where the functions can be tabulated; None where they cannot, or where that depends on
        numbers that cannot be read (of meta and fake tensors).
        """
        return None

    def update_grid(self, samples: Tensor) -> Tensor:
        """Move the grid to samples (C, n) of the mapped input; returns the change of basis (see
        `refine`), by least squares on them.
        """
        raise ValueError(f"{type(self).__name__} has no grid to update")

    def refine(self, grid_size: int, *, keep_tails: bool = True) -> Tensor:
        """Go over to a finer grid; returns (C, K, K') numbers with old_i = sum_j change[c, i, j]
        new_j.
        """
        raise ValueError(
            f"{type(self).__name__} has no nested grids: only B-splines can be refined without"
            " changing the function"
        )

    def raise_degree(self, degree: int) -> Tensor:
        """Go over to a higher degree; returns the change of basis (see `refine`)."""
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
        """Moves and casts as every module, but grids and other constants keep at least float32:
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

        A normalising domain map is the identity on such inputs.
        """
        # A few points at a time where there are many channels: those of a layer that is connected
        # locally are tens of thousands.
        parts = self._normal_points().split(max(1, AT_ONCE // (self.channels * self.num_functions)))
        return sum(self._values_at(points).square().sum(dim=(0, 2)) for points in parts) / (
            self.channels * NORMAL_POINTS
        )

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
        """All functions at the points (n,), which the domain map is yet to see: (C, K, n),
        float64.
        """
        x = points.expand(1, self.channels, -1)
        held = [value for value in self.state_dict().values() if value.is_floating_point()]
        x = at_least_float32(x.to(held[0])) if held else x
        return self.functions(
            POINTWISE_DOMAINS[self.domain].value(x) if self.domain in POINTWISE_DOMAINS else x
        )[0].double()

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, num_functions={self.num_functions}, domain={self.domain!r}"
        )


def check_floating(x: Tensor) -> None:
    """ValueError for integers, booleans and complex numbers: what is computed of them would be
    rounded.
    """
    if not x.dtype.is_floating_point:
        raise ValueError(
            f"expected a tensor of floating-point numbers, got {x.dtype}: convert it first, as by"
            " x.float()"
        )


def has_autocast(x: Tensor) -> bool:
    """Whether autocast exists on the device of x; on the device meta it does not."""
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
    """What grids are held in: torch's default, but at least float32; rounded to half precision they
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
    """Write values into a buffer, so that those who hold it (DistributedDataParallel, a compiled
    graph) see them; a new tensor only where the shape is another one, or where the old one was
    made in inference mode and cannot be written.
    """
    old = getattr(module, name)
    values = values.to(device=old.device, dtype=old.dtype)
    frozen = old.is_inference() and not torch.is_inference_mode_enabled()
    if old.shape == values.shape and not frozen:
        old.copy_(values)
    else:
        setattr(module, name, values)


def aligned(values: Tensor, u: Tensor) -> Tensor:
    """Numbers per channel (C,) lined up with u (B, C, *S) for broadcasting: (C, 1, ..., 1) in the
    dtype of u.
    """
    return values.to(u.dtype).reshape(-1, *[1] * (u.dim() - 2))


def change_of_basis(old: Tensor, new: Tensor) -> Tensor:
    """Least squares: values (C, K, n) and (C, K', n) of old and new functions at the same points ->
    (C, K, K') with old = change @ new.

    Exact, to rounding in double precision, where the old functions are combinations of the new
    ones.
    """
    solution = torch.linalg.lstsq(
        new.double().cpu().transpose(1, 2), old.double().cpu().transpose(1, 2), driver="gelsd"
    ).solution
    return solution.transpose(1, 2)


def check_at_least(name: str, value: int, minimum: int, maximum: int | None = None) -> int:
    """The value if it is an integer within the limits; else a ValueError that states them."""
    limits = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < minimum
        or (maximum is not None and value > maximum)
    ):
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")
    return value


def check_range(limits: tuple[float, float]) -> tuple[float, float]:
    """(lo, hi) as floats; ValueError unless lo < hi."""
    lo, hi = (float(v) for v in limits)
    if not lo < hi:
        raise ValueError(f"a range must be (lo, hi) with lo < hi, got ({lo}, {hi})")
    return lo, hi
