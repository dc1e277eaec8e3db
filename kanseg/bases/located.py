"""The skeleton of families that are one function at learned places and scales."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanseg.bases.base import Basis, ValuesAndDerivatives, aligned, constant_dtype, finite_part

Wave = tuple[Tensor, Callable[[], Tensor]]  # the value, and how to get the derivative


class Located(Basis):
    """psi((u - t_j) / s_j) with K pairs (t_j, s_j) per channel; scales are held as logarithms, so
    that s_j > 0.

    A family calls `reset_parameters` at the end of its `__init__`. Values and gradients are 0 at
    infinity and NaN at NaN.

    Args:
        channels: C.
        num_functions: K.
        domain: of the map u.
        trainable: whether the t_j and s_j are parameters.
    """

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

    @abstractmethod
    def start(self) -> tuple[Tensor, Tensor]:
        """Where the t_j and s_j start: (K,) each, float64 on the CPU."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        location, scale = self.start()
        self.location.copy_(location.to(self.location.dtype))
        self.log_scale.copy_(scale.log().to(self.log_scale.dtype))

    @abstractmethod
    def mother(self, t: Tensor) -> Wave:
        """psi(t), and a callable for psi'(t)."""

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        u = finite_part(u)
        for location, log_scale in zip(
            self.location.unbind(1), self.log_scale.unbind(1), strict=True
        ):
            rate = torch.exp(-aligned(log_scale, u))
            value, slope = self.mother((u - aligned(location, u)) * rate)
            yield value, slope() * rate if derivatives else None

    def parameter_gradients(self, j: int, weighted: Tensor, u: Tensor) -> dict[str, Tensor]:
        # d/dt = -d/du and d/d(log s) = -(u - t) d/du
        axes = [0, *range(2, u.dim())]
        total, moment = weighted.sum(axes), (weighted * finite_part(u)).sum(axes)
        return {
            "location": -total,
            "log_scale": self.location[:, j].to(total.dtype) * total - moment,
        }
