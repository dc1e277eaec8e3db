"""Bases and domain maps of torch-conv-kan that differ from those of `kanseg.bases`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import cos, pi

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.bases.base import ValuesAndDerivatives, aligned, at_least_float32, without_autocast
from kanseg.bases.wavelet import mexican_hat, morlet, sinc


def batch_range(x: Tensor, groups: int) -> Tensor:
    """Scale x (B, C, *S) to [-1, 1]: 2 (x - min) / (max - min) - 1, with the minimum and maximum of
    each group of channels over the whole batch.

    A single value becomes -1, where torch-conv-kan divides 0 by 0.
    """
    if x.numel() == 0:
        return x
    grouped = x.unflatten(1, (groups, -1))
    others = [d for d in range(grouped.dim()) if d != 1]
    low = grouped.amin(others, keepdim=True)
    span = (grouped.amax(others, keepdim=True) - low).clamp_min(torch.finfo(x.dtype).tiny)
    return (2 * (grouped - low) / span - 1).flatten(1, 2)


# name -> (x, groups) -> u. The bases have domain="identity", because dropout may be applied between
# the domain map and the functions.
DOMAINS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "identity": lambda x, groups: x,
    "tanh": lambda x, groups: torch.tanh(x),
    "sigmoid": lambda x, groups: torch.sigmoid(x),
    "batch_range": batch_range,
}


class _LegacyBasis(nn.Module, ABC):
    """A basis outside of `kanseg.bases.Basis`: (B, C, *S) -> (B, C, K, *S), computed in float32 at
    least and returned in the dtype of the input.
    """

    def __init__(self, num_functions: int):
        super().__init__()
        self.num_functions = num_functions

    @abstractmethod
    def values(self, u: Tensor) -> Tensor:
        """Values of the functions at u, in the dtype of u."""

    def forward(self, u: Tensor) -> Tensor:
        with without_autocast(u):
            return self.values(at_least_float32(u)).to(u.dtype)


class ActivatedGram(Basis):
    """activation(p_i(u)), i = 0..D: (B, C, *S) -> (B, C, D + 1, *S).

    p_i = u p_{i-1} - c_i w_{i-1} p_{i-2} with a learned w per degree. torch-conv-kan's coefficient
    c_i = (2i - 1)(i - 1)^2 (4(i - 1)^2 - 1) / i^2 does not make the polynomials orthogonal.
    """

    has_derivatives = False  # the activation can be any module

    def __init__(self, channels: int, degree: int, activation: nn.Module, init_std: float):
        super().__init__(channels, degree + 1, "identity")
        self.activation = activation
        self.init_std = init_std
        self.beta_weights = nn.Parameter(torch.empty(degree + 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.beta_weights.copy_(torch.randn_like(self.beta_weights) * self.init_std)

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        before, current = torch.zeros_like(u), torch.ones_like(u)
        for i in range(self.num_functions):
            yield self.activation(current), None
            weight = self.beta_weights[i].to(u.dtype) * (
                (2 * i + 1) * i**2 * (4 * i**2 - 1) / (i + 1) ** 2
            )
            before, current = current, u * current - weight * before if i else u


class FreeBumps(Basis):
    """[r relu(u - low_j) relu(high_j - u)]^2 with r = 4 g^2 / (k + 1)^2: (B, C, *S) -> (B, C, g +
    k, *S).

    The ends low_j and high_j are parameters (C / groups, g + k), the same for all groups. After
    training the bumps may have any height, and a bump with high < low is 0.
    """

    has_derivatives = False

    def __init__(self, channels: int, groups: int, grid_size: int, order: int, trainable: bool):
        super().__init__(channels, grid_size + order, "identity")
        self.groups = groups
        self.height = 4 * grid_size**2 / (order + 1) ** 2
        self.grid_size, self.order = grid_size, order
        shape = (channels // groups, grid_size + order)
        self.phase_low = nn.Parameter(torch.empty(shape), requires_grad=trainable)
        self.phase_high = nn.Parameter(torch.empty(shape), requires_grad=trainable)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        low = torch.arange(-self.order, self.grid_size, device="cpu") / self.grid_size
        self.phase_low.copy_(low)
        self.phase_high.copy_(low + (self.order + 1) / self.grid_size)

    def values_and_derivatives(self, u: Tensor, derivatives: bool = False) -> ValuesAndDerivatives:
        lows = self.phase_low.to(u.dtype).repeat(self.groups, 1).unbind(1)
        highs = self.phase_high.to(u.dtype).repeat(self.groups, 1).unbind(1)
        for low, high in zip(lows, highs, strict=True):
            rise, fall = torch.relu(u - aligned(low, u)), torch.relu(aligned(high, u) - u)
            yield (rise * fall * self.height).square(), None


def _meyer(t: Tensor) -> Tensor:
    """sin(pi |t|) times a window: 1 for |t| <= 1/2, cos(pi/2 nu(2 |t| - 1)) up to 1, then 0."""
    distance = t.abs()
    s = (2 * distance - 1).clamp(0, 1)
    nu = s**4 * (35 - 84 * s + 70 * s**2 - 20 * s**3)
    return torch.sin(pi * distance) * torch.cos(pi / 2 * nu)


def _shannon(t: Tensor) -> Tensor:
    """sin(t) / t times a Hamming window over the channels, axis 3 of t (B, G, O, C, *S)."""
    count, window = t.shape[3], [1.0]
    if count > 1:
        window = [0.54 - 0.46 * cos(2 * pi * c / (count - 1)) for c in range(count)]
    window = torch.tensor(window, dtype=t.dtype, device=t.device)
    return sinc(t / pi)[0] * window.reshape(-1, *[1] * (t.dim() - 4))


WAVELETS: dict[str, Callable[[Tensor], Tensor]] = {
    "mexican_hat": lambda t: -mexican_hat(t)[0],
    "morlet": lambda t: morlet(t)[0],
    "dog": lambda t: -t * torch.exp(-t.square() / 2),
    "meyer": _meyer,
    "shannon": _shannon,
}


class PairedWavelets(_LegacyBasis):
    """psi((x_c - t_oc) / s_oc), one wavelet for each output and each input channel of its group:
    (B, C, *S) -> (B, O, C / groups, *S).

    Raises:
        ValueError: unknown wavelet.
    """

    def __init__(self, channels: int, out_channels: int, groups: int, wavelet: str):
        super().__init__(out_channels // groups)
        if wavelet not in WAVELETS:
            raise ValueError(f"unknown wavelet_type {wavelet!r} (known: {', '.join(WAVELETS)})")
        self.groups, self.wavelet = groups, wavelet
        self.translation = nn.Parameter(torch.zeros(out_channels, channels // groups))
        self.scale = nn.Parameter(torch.ones(out_channels, channels // groups))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset translations and scales to their initial values."""
        self.translation.zero_()
        self.scale.fill_(1)

    def values(self, u: Tensor) -> Tensor:
        translation, scale = (
            pairs.to(u.dtype).reshape(self.groups, self.num_functions, -1, *[1] * (u.dim() - 2))
            for pairs in (self.translation, self.scale)
        )
        t = (u.unflatten(1, (self.groups, -1)).unsqueeze(2) - translation) / scale
        return WAVELETS[self.wavelet](t).flatten(1, 2)
