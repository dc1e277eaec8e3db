"""Norms, activations and initial weights that layers are put together from."""

from __future__ import annotations

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
NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "batch": lambda channels, ndim: (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[ndim - 1](
        channels
    ),
    "instance": lambda channels, ndim: (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[
        ndim - 1
    ](channels, affine=True),
    "group": lambda channels, ndim: nn.GroupNorm(
        next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0), channels
    ),
    "layer": lambda channels, ndim: nn.GroupNorm(1, channels),
}


def activation_module(
    activation: str | Callable[[], nn.Module] | None, *, inplace: bool = True
) -> nn.Module:
    """An activation by name, by a callable that makes one, or Identity for None; inplace=False
    where its input is needed afterwards.
    """
    if activation is None:
        return nn.Identity()
    if callable(activation):
        made = activation()
        if getattr(made, "inplace", False) and not inplace:
            made.inplace = False
        return made
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {activation!r}{nearest(activation, ACTIVATIONS)} (known:"
            f" {', '.join(ACTIVATIONS)})"
        )
    return ACTIVATIONS[activation]()


def norm_module(
    norm: str | Callable[[int], nn.Module] | None, channels: int, ndim: int
) -> nn.Module:
    """A normalization layer by name, by a callable that makes one from the channel count, or
    Identity for None.
    """
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
    """Put a module back to where it was built: by its own `reset_parameters`, or else by those of
    its parts, in the order in which they are held.
    """
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for part in module.children():
        reset(part)


@contextmanager
def exact_constants(dtype: torch.dtype | None) -> Iterator[None]:
    """Within it a basis makes its grid in double precision when the layer is to be float64, not
    rounded to float32 first.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if dtype == torch.float64 else default)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def inner_width(inner_channels: int | float, in_channels: int, out_channels: int) -> int:
    """Channels inside a bottleneck: a number as it is; a share of the wider side, but at least 16
    where the layer has 16.
    """
    if (
        isinstance(inner_channels, int)
        and not isinstance(inner_channels, bool)
        and inner_channels >= 1
    ):
        return inner_channels
    if isinstance(inner_channels, float) and 0 < inner_channels <= 1:
        return max(
            int(max(in_channels, out_channels) * inner_channels), min(16, in_channels, out_channels)
        )
    raise ValueError(
        f"inner_channels must be an integer >= 1 or a share between 0 and 1, got {inner_channels!r}"
    )


@torch.no_grad()
def init_to_variance(weight: Tensor, variance: float, moments: Tensor | None = None) -> None:
    """Draw weight (O, I * K, *kernel) so that the output's second moment is `variance`.

    Args:
        weight: the weights of a convolution or matrix over I * K inputs, channel-major.
        variance: of the output, for independent inputs with the given second moments.
        moments: second moment of each of the K functions (K,); 1 for all by default. Every function
            gets the same share of the variance, so that none starts dead.
    """
    # Only tensor operations: layers are built on the meta device and under fake tensors too, where
    # nothing has a value.
    moments = torch.ones(1, device=weight.device) if moments is None else moments.to(weight.device)
    fan_in = weight[0].numel() // len(moments)
    alive = moments > 1e-12
    share = variance / (fan_in * alive.sum().clamp_min(1))
    std = torch.where(alive, (share / moments.clamp_min(1e-12)).sqrt(), 0.0).to(weight.dtype)
    weight.normal_().mul_(
        std.repeat(weight.shape[1] // len(moments)).reshape(1, -1, *[1] * (weight.dim() - 2))
    )


def activation_second_moment(activation: nn.Module) -> Tensor:
    """E[a(x)^2] for x ~ N(0, 1), (1,)."""
    x = torch.special.ndtri((torch.arange(4096, dtype=torch.float64) + 0.5) / 4096).to(
        torch.get_default_dtype()
    )
    with torch.no_grad():
        return activation(x).square().mean().reshape(1)


# Share of a fresh layer's variance that comes from the univariate functions when there is a base
# branch. On GlaS (20 epochs, U-Net of bottleneck Gram layers) a share of 0.5 reached .66 to .69
# IoU, 0.05 reached .72 to .73: the functions should correct, not dominate.
BASIS_SHARE = 0.05


FUNCTION_INITS = ("normal", "zero")


def check_function_init(function_init: str, has_base: bool) -> str:
    """ "normal" or "zero", which needs a base branch; ValueError otherwise."""
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
    """Initial weights of the two branches of a KAN layer, convolutions or matrices: together an
    output variance of 1; all of it from the base branch where the functions start at zero.
    """
    if next(each.weight for each in (basis_map, base_map) if each is not None).is_meta:
        # nothing has a value there, and finding the moments of the functions takes most of the time
        return
    share = 1.0 if basis_map is not None and base_map is None else BASIS_SHARE
    if basis_map is None or function_init == "zero":
        share = 0.0
    if basis is not None and basis_map is not None:
        init_to_variance(basis_map.weight, share, basis.second_moments())
    if base_map is not None:
        moment = activation_second_moment(base_activation)
        init_to_variance(base_map.weight, 1.0 - share, moment)
