"""Wavelets with learned translations and scales (Wav-KAN)."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import torch
from torch import Tensor

from kanseg.bases.base import BASES, check_at_least
from kanseg.bases.located import Located, Wave


def sinc(x: Tensor) -> Wave:
    """sin(pi x) / (pi x), with accurate derivatives at and near 0 (those of torch.sinc suffer from
    cancellation).
    """
    small = x.abs() < 1e-2
    safe = torch.where(small, torch.ones_like(x), x)
    near = torch.where(small, x, torch.zeros_like(x))
    square = (pi * near).square()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    value = torch.where(small, series, torch.sin(pi * safe) / (pi * safe))

    def slope() -> Tensor:
        series_slope = -(pi**2) / 3 * near * (1 - square / 10 * (1 - square / 28))
        return torch.where(small, series_slope, (torch.cos(pi * safe) - value) / safe)

    return value, slope


def mexican_hat(t: Tensor) -> Wave:
    """2 / (sqrt(3) pi^(1/4)) (1 - t^2) exp(-t^2 / 2), the Ricker wavelet."""
    fall = (t * t).mul_(-0.5)
    bell = torch.exp(fall) * (2 / (sqrt(3) * pi**0.25))
    return torch.addcmul(bell, fall, bell, value=2), lambda: (-2 * fall - 3).mul_(t).mul_(bell)


def morlet(t: Tensor) -> Wave:
    """exp(-t^2 / 2) cos(5 t), the real Morlet wavelet."""
    bell = torch.exp(-t.square() / 2)
    value = bell * torch.cos(5 * t)
    return value, lambda: -t * value - 5 * bell * torch.sin(5 * t)


def dog(t: Tensor) -> Wave:
    """-2 t exp(-t^2) / (pi / 2)^(1/4), the first derivative of a Gaussian, of unit energy."""
    bell = torch.exp(-t.square()) * (-2 / (pi / 2) ** 0.25)
    return t * bell, lambda: (1 - 2 * t.square()) * bell


def shannon(t: Tensor) -> Wave:
    """sinc(t / 2) cos(3 pi t / 2): the ideal band-pass from pi to 2 pi."""
    wave, wave_slope = sinc(t / 2)
    carrier = torch.cos(1.5 * pi * t)
    return (
        wave * carrier,
        lambda: 0.5 * wave_slope() * carrier - 1.5 * pi * wave * torch.sin(1.5 * pi * t),
    )


def meyer(t: Tensor) -> Wave:
    """The Meyer wavelet in the time domain (Valenzuela and de Oliveira 2015, arXiv:1502.00161).

    Their two quotients have removable singularities at v = t - 1/2 in {0, +-3/8, +-3/4}; by partial
    fractions both are sums of shifted sinc functions, which have none.
    """
    v = t - 0.5
    # (weight, rate, shift) of weight * sinc(rate * v + shift)
    parts = [
        (1 / 3, 2 / 3, -0.5),
        (1 / 3, 2 / 3, 0.5),
        (-4 / 3, 4 / 3, 0),
        (-2 / 3, 4 / 3, -1),
        (-2 / 3, 4 / 3, 1),
        (4 / 3, 4 / 3, 0),
    ]
    waves = [(weight, rate, sinc(rate * v + shift)) for weight, rate, shift in parts]
    sides = [(sign, 1 + sign * 8 / 3 * v) for sign in (-1, 1)]
    products = [(sign, pi / 4 * side, sinc(0.75 * side)) for sign, side in sides]
    value = sum(weight * wave[0] for weight, _, wave in waves) + sum(
        2 * torch.sin(angle) * wave[0] for _, angle, wave in products
    )

    def slope() -> Tensor:
        pairs = [
            sign * (4 / 3 * pi * torch.cos(angle) * wave[0] + 4 * torch.sin(angle) * wave[1]())
            for sign, angle, wave in products
        ]
        return sum(weight * rate * wave[1]() for weight, rate, wave in waves) + sum(pairs)

    return value, slope


# For wavelets that decay fast: |t| beyond which they are below 1e-6, and table intervals per unit.
TABLES = {"mexican_hat": (6.0, 4.5), "morlet": (5.5, 12.0), "dog": (4.5, 7.0)}
WAVELETS: dict[str, Callable[[Tensor], Wave]] = {
    "mexican_hat": mexican_hat,
    "morlet": morlet,
    "dog": dog,
    "meyer": meyer,
    "shannon": shannon,
}


@BASES.register("wavelet")
class Wavelet(Located):
    """psi((u - t_j) / s_j) with K learned pairs (t_j, s_j) per channel (Bozorgasl and Chen 2024,
    arXiv:2405.12832).

    Args:
        channels: C.
        num_wavelets: K >= 1. Translations start equally spaced on [-1, 1], scales at 1.
        wavelet: mexican_hat, morlet, dog, meyer or shannon.
        domain: identity by default. Scales are trained as logarithms, so s_j > 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_wavelets: int = 4,
        wavelet: str = "mexican_hat",
        domain: str = "identity",
    ):
        check_at_least("num_wavelets", num_wavelets, 1)
        if wavelet not in WAVELETS:
            raise ValueError(f"unknown wavelet {wavelet!r} (known: {', '.join(WAVELETS)})")
        super().__init__(channels, num_wavelets, domain)
        self.wavelet = wavelet
        if wavelet in TABLES:
            limit, self.table_density = TABLES[wavelet]
            self.support = -limit, limit
        self.reset_parameters()

    def start(self) -> tuple[Tensor, Tensor]:
        count = self.num_functions
        start = torch.zeros(1, dtype=torch.float64, device="cpu")
        if count > 1:
            start = torch.linspace(-1, 1, count, dtype=torch.float64, device="cpu")
        return start, torch.ones_like(start)

    def mother(self, t: Tensor) -> Wave:
        return WAVELETS[self.wavelet](t)
