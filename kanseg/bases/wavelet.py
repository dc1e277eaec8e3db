"""Wavelets with learned translations and scales (Wav-KAN)."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import torch
from torch import Tensor, nn

from kanseg.bases.base import BASES, Basis, check_at_least, per_function


def sinc(x: Tensor) -> Tensor:
    """sin(pi x) / (pi x) with a gradient that is right at and near 0 (torch.sinc's cancels there)."""
    small = x.abs() < 1e-2
    safe = torch.where(small, torch.ones_like(x), x)
    square = (pi * torch.where(small, x, torch.zeros_like(x))).square()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    return torch.where(small, series, torch.sin(pi * safe) / (pi * safe))


def mexican_hat(t: Tensor) -> Tensor:
    """2 / (sqrt(3) pi^(1/4)) (1 - t^2) exp(-t^2 / 2), the Ricker wavelet."""
    square = t.square()
    return 2 / (sqrt(3) * pi**0.25) * (1 - square) * torch.exp(-square / 2)


def morlet(t: Tensor) -> Tensor:
    """exp(-t^2 / 2) cos(5 t), the real Morlet wavelet."""
    return torch.exp(-t.square() / 2) * torch.cos(5 * t)


def dog(t: Tensor) -> Tensor:
    """-2 t exp(-t^2) / (pi / 2)^(1/4), the first derivative of a Gaussian, of unit energy."""
    return -2 / (pi / 2) ** 0.25 * t * torch.exp(-t.square())


def meyer(t: Tensor) -> Tensor:
    """The Meyer wavelet in the time domain (Valenzuela and de Oliveira 2015, arXiv:1502.00161).

    Their two quotients have removable 0/0 at v = t - 1/2 in {0, +-3/8, +-3/4}; by partial fractions both are sums of
    shifted sinc functions, which have none.
    """
    v = t - 0.5
    w = 4 / 3 * v
    low = (sinc((w - 1) / 2) + sinc((w + 1) / 2)) / 3 - 4 / 3 * sinc(w) - 2 / 3 * (sinc(w - 1) + sinc(w + 1))
    w = 8 / 3 * v
    pair = torch.sin(pi / 4 * (1 - w)) * sinc(3 / 4 * (1 - w)) + torch.sin(pi / 4 * (1 + w)) * sinc(3 / 4 * (1 + w))
    return low + 4 / 3 * sinc(w / 2) + 2 * pair


def shannon(t: Tensor) -> Tensor:
    """sinc(t / 2) cos(3 pi t / 2): the ideal band-pass from pi to 2 pi."""
    return sinc(t / 2) * torch.cos(1.5 * pi * t)


WAVELETS: dict[str, Callable[[Tensor], Tensor]] = {
    "mexican_hat": mexican_hat,
    "morlet": morlet,
    "dog": dog,
    "meyer": meyer,
    "shannon": shannon,
}


@BASES.register("wavelet")
class Wavelet(Basis):
    """psi((u - t_j) / s_j) with K learned pairs (t_j, s_j) per channel (Bozorgasl and Chen 2024, arXiv:2405.12832).

    Args:
        channels: C.
        num_wavelets: K >= 1. Translations start equally spaced on [-1, 1], scales at 1.
        wavelet: mexican_hat, morlet, dog, meyer or shannon.
        domain: identity by default. Scales are trained as logarithms, so s_j > 0.
    """

    def __init__(self, channels: int, *, num_wavelets: int = 4, wavelet: str = "mexican_hat", domain: str = "identity"):
        check_at_least("num_wavelets", num_wavelets, 1)
        if wavelet not in WAVELETS:
            raise ValueError(f"unknown wavelet {wavelet!r} (known: {', '.join(WAVELETS)})")
        super().__init__(channels, num_wavelets, domain)
        self.wavelet = wavelet
        start = torch.linspace(-1, 1, num_wavelets) if num_wavelets > 1 else torch.zeros(1)
        self.translation = nn.Parameter(start.repeat(channels, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, num_wavelets))

    def functions(self, u: Tensor) -> Tensor:
        t = (u.unsqueeze(2) - per_function(self.translation, u)) * per_function(torch.exp(-self.log_scale), u)
        return WAVELETS[self.wavelet](t)
