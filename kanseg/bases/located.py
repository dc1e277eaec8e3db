"""The skeleton of families that are one function at learned places and scales."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanseg.bases.base import Basis, Terms, aligned

Wave = tuple[Tensor, Callable[[], Tensor]]  # the value, and how to get the derivative


class Located(Basis):
    """psi((u - t_j) / s_j) with K pairs (t_j, s_j) per channel; scales are held as logarithms, so
    that s_j > 0.

    Args:
        channels: C.
        location, scale: where the t_j and s_j start, (K,) each.
        domain: of the map u.
        trainable: whether they are parameters.
    """

    stated_parameters = ("location", "log_scale")
    per_channel = ("location", "log_scale")

    def __init__(
        self, channels: int, location: Tensor, scale: Tensor, domain: str, *, trainable: bool = True
    ):
        super().__init__(channels, len(location), domain)
        self.location = self._held(location, trainable)
        self.log_scale = self._held(scale.log(), trainable)

    def _held(self, values: Tensor, trainable: bool) -> Tensor:
        per_channel = values.to(torch.get_default_dtype()).repeat(self.channels, 1)
        return nn.Parameter(per_channel) if trainable else nn.Buffer(per_channel)

    @abstractmethod
    def mother(self, t: Tensor) -> Wave:
        """psi(t), and a callable for psi'(t)."""

    def terms(self, u: Tensor, slopes: bool = False) -> Terms:
        for location, log_scale in zip(
            self.location.unbind(1), self.log_scale.unbind(1), strict=True
        ):
            rate = torch.exp(-aligned(log_scale, u))
            value, slope = self.mother((u - aligned(location, u)) * rate)
            yield value, slope() * rate if slopes else None

    def parameter_gradients(self, j: int, weighted: Tensor, u: Tensor) -> dict[str, Tensor]:
        # d/dt = -d/du and d/d(log s) = -(u - t) d/du
        axes = [0, *range(2, u.dim())]
        total, moment = weighted.sum(axes), (weighted * u).sum(axes)
        return {
            "location": -total,
            "log_scale": self.location[:, j].to(total.dtype) * total - moment,
        }
