"""Base class of families with one function at learned locations and scales."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from math import ceil, isfinite

import torch
from torch import Tensor, nn

from kanseg.bases.base import (
    Basis,
    TableRange,
    ValuesAndDerivatives,
    aligned,
    at_least_float32,
    constant_dtype,
    finite_part,
)
from kanseg.bases.domains import POINTWISE_DOMAINS

Wave = tuple[Tensor, Callable[[], Tensor]]  # the value, and a function that computes the derivative


class Located(Basis):
    """psi((u - t_j) / s_j) with K locations t_j and scales s_j per channel.

    Scales are stored as logarithms, so that s_j > 0. Subclasses call `reset_parameters` at the end
    of their `__init__`. Values and gradients are 0 at infinity and NaN at NaN.

    Args:
        channels: C.
        num_functions: K.
        domain: name of the domain map u.
        trainable: whether the t_j and s_j are parameters.
    """

    # Interval of t outside of which psi(t) is 0, and table intervals per unit of t (see
    # `TableRange`); None if psi decays too slowly for a table.
    support: tuple[float, float] | None = None
    table_density = 0.0
    analytic_parameters = ("location", "log_scale")
    per_channel = ("location", "log_scale")

    def __init__(self, channels: int, num_functions: int, domain: str, *, trainable: bool = True):
        super().__init__(channels, num_functions, domain)
        for name in self.per_channel:
            if trainable:
                values = torch.empty(channels, num_functions)
                self.register_parameter(name, nn.Parameter(values))
            else:
                values = torch.empty(channels, num_functions, dtype=constant_dtype())
                self.register_buffer(name, values)

    @property
    def has_table(self) -> bool:
        return self.support is not None

    @torch.no_grad()
    def table_range(self) -> TableRange | None:
        location = self.location
        if self.support is None or location.is_meta or type(location) not in (Tensor, nn.Parameter):
            return None
        location, scale = at_least_float32(location), at_least_float32(self.log_scale).exp()
        smallest = scale.amin(1)
        lo = (location + self.support[0] * scale).amin(1)
        hi = (location + self.support[1] * scale).amax(1)
        if self.is_pointwise:
            lowest, highest = POINTWISE_DOMAINS[self.domain].limits
            lo, hi = lo.clamp(lowest, highest), hi.clamp(lowest, highest)
        hi = torch.maximum(hi, lo + smallest)  # if all functions are outside the domain
        length = ((hi - lo) / smallest).max().item() * self.table_density
        if not isfinite(length):
            return None
        return TableRange(lo, hi, ceil(length))

    @abstractmethod
    def start(self) -> tuple[Tensor, Tensor]:
        """Initial locations t_j and scales s_j: (K,) each, float64 on the CPU."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        location, scale = self.start()
        self.location.copy_(location.to(self.location.dtype))
        self.log_scale.copy_(scale.log().to(self.log_scale.dtype))

    @abstractmethod
    def mother(self, t: Tensor) -> Wave:
        """psi(t), and a function that computes psi'(t)."""

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        u = finite_part(u)
        for j in range(self.num_functions):
            location, log_scale = aligned(self.location[:, j], u), aligned(self.log_scale[:, j], u)
            rate = torch.exp(-log_scale)
            value, derivative = self.mother((u - location) * rate)
            if derivatives:
                yield value, derivative() * rate
            else:
                yield value, None

    def values_at(self, u: Tensor) -> Tensor:
        # All functions at once: there are few points.
        location = self.location.to(u.dtype).unsqueeze(2)
        log_scale = self.log_scale.to(u.dtype).unsqueeze(2)
        values, _ = self.mother((u.unsqueeze(1) - location) * torch.exp(-log_scale))
        return values

    def parameter_gradients(self, j: int, weighted: Tensor, u: Tensor) -> dict[str, Tensor]:
        # d/dt = -d/du and d/d(log s) = -(u - t) d/du
        axes = [0, *range(2, u.dim())]
        total, moment = weighted.sum(axes), (weighted * finite_part(u)).sum(axes)
        return {
            "location": -total,
            "log_scale": self.location[:, j].to(total.dtype) * total - moment,
        }
