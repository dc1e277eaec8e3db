"""Norms, activations and weight initialization shared by the layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.utils.registry import nearest

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "prelu": nn.PReLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


# name -> (channels, number of spatial axes) -> module
NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "batch": lambda channels, ndim: BATCH_NORMS[ndim](channels),
    "instance": lambda channels, ndim: INSTANCE_NORMS[ndim](channels, affine=True),
    # The number of groups is the largest power of 2 up to 32 that divides the channels.
    "group": lambda channels, ndim: nn.GroupNorm(math.gcd(channels, 32), channels),
    "layer": lambda channels, ndim: nn.GroupNorm(1, channels),
}


def activation_module(
    activation: str | Callable[[], nn.Module] | None, *, inplace: bool = True
) -> nn.Module:
    """Create an activation from a name or a callable; Identity for None.

    With inplace=False the activation keeps its input unchanged.
    """
    if activation is None:
        return nn.Identity()
    if callable(activation):
        module = activation()
        if getattr(module, "inplace", False) and not inplace:
            module.inplace = False
        return module
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {activation!r}{nearest(activation, ACTIVATIONS)} (known:"
            f" {', '.join(ACTIVATIONS)})"
        )
    return ACTIVATIONS[activation]()


def norm_module(
    norm: str | Callable[[int], nn.Module] | None, channels: int, ndim: int
) -> nn.Module:
    """Create a norm from a name or a callable of the channel count; Identity for None."""
    if norm is None:
        return nn.Identity()
    if callable(norm):
        return norm(channels)
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}{nearest(norm, NORMS)} (known: {', '.join(NORMS)})")
    return NORMS[norm](channels, ndim)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel: (B, C, *S) -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class DropPath(nn.Module):
    """In training, zeroes whole samples with probability p and scales the others by 1 / (1 - p)
    (stochastic depth, arXiv:1603.09382).
    """

    def __init__(self, p: float = 0.0):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.p
        return x * (kept / (1 - self.p)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def reset(module: nn.Module) -> None:
    """Reset a module to its initial state by its `reset_parameters`, or else by those of its
    children, in order.
    """
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for part in module.children():
        reset(part)


@contextmanager
def exact_constants(dtype: torch.dtype | None) -> Iterator[None]:
    """Context in which the grid of a float64 layer is created in double precision, instead of
    being rounded to float32 first.
    """
    default = torch.get_default_dtype()
    if dtype == torch.float64:
        torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def inner_width(inner_channels: int | float, in_channels: int, out_channels: int) -> int:
    """Number of channels inside a bottleneck.

    An integer is used as it is. A float is a fraction of the wider side, with at least 16 channels
    if the layer has 16.
    """
    is_count = isinstance(inner_channels, int) and not isinstance(inner_channels, bool)
    if is_count and inner_channels >= 1:
        return inner_channels
    if isinstance(inner_channels, float) and 0 < inner_channels <= 1:
        fraction = int(max(in_channels, out_channels) * inner_channels)
        return max(fraction, min(16, in_channels, out_channels))
    raise ValueError(
        "inner_channels must be an integer >= 1 or a fraction between 0 and 1, got"
        f" {inner_channels!r}"
    )


@torch.no_grad()
def init_to_variance(weight: Tensor, variance: float, moments: Tensor | None = None) -> None:
    """Draw weight (O, I * K, *kernel) so that the output's second moment is `variance`.

    Args:
        weight: the weights of a convolution or matrix over I * K inputs, channel-major.
        variance: of the output, for independent inputs with the given second moments.
        moments: second moment of each of the K functions (K,); 1 for all by default. Every function
            contributes the same part of the variance, so that none starts dead.
    """
    # Tensor operations only: layers are also built on the meta device and with fake tensors, which
    # have no values.
    if moments is None:
        moments = torch.ones(1, device=weight.device)
    moments = moments.to(weight.device)
    fan_in = weight[0].numel() // len(moments)
    alive = moments > 1e-12
    share = variance / (fan_in * alive.sum().clamp_min(1))
    std = torch.where(alive, (share / moments.clamp_min(1e-12)).sqrt(), 0.0).to(weight.dtype)
    std = std.repeat(weight.shape[1] // len(moments))
    weight.normal_().mul_(std.reshape(1, -1, *[1] * (weight.dim() - 2)))


def activation_second_moment(activation: nn.Module) -> Tensor:
    """E[a(x)^2] for x ~ N(0, 1), (1,)."""
    masses = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    x = torch.special.ndtri(masses).to(torch.get_default_dtype())
    with torch.no_grad():
        return activation(x).square().mean().reshape(1)


# Fraction of a new layer's output variance that comes from the univariate functions if there is a
# base branch. On GlaS (20 epochs, U-Net of bottleneck Gram layers) 0.5 reached .66 to .69 IoU, 0.05
# reached .72 to .73: the functions should correct the base branch, not dominate it.
BASIS_VARIANCE = 0.05
FUNCTION_INITS = ("normal", "zero")


def check_function_init(function_init: str, has_base: bool) -> str:
    """Return `function_init` if it is valid: "normal", or "zero" with a base branch."""
    if function_init not in FUNCTION_INITS:
        raise ValueError(
            f"function_init must be one of {', '.join(FUNCTION_INITS)}, got {function_init!r}"
        )
    if function_init == "zero" and not has_base:
        raise ValueError("functions cannot start at zero without a base branch: all would stay 0")
    return function_init


def init_branches(
    basis: Basis | None,
    basis_map: nn.Module | None,
    base_activation: nn.Module,
    base_map: nn.Module | None,
    *,
    function_init: str = "normal",
) -> None:
    """Draw the weights of the two branches of a KAN layer, for a total output variance of 1.

    The base branch has all of the variance if the functions start at zero.
    """
    first_map = base_map if basis_map is None else basis_map
    if first_map.weight.is_meta:
        return  # there are no values to draw, and computing the second moments is slow
    basis_variance = BASIS_VARIANCE
    if basis_map is None or function_init == "zero":
        basis_variance = 0.0
    elif base_map is None:
        basis_variance = 1.0
    if basis is not None and basis_map is not None:
        init_to_variance(basis_map.weight, basis_variance, basis.second_moments())
    if base_map is not None:
        moment = activation_second_moment(base_activation)
        init_to_variance(base_map.weight, 1.0 - basis_variance, moment)
