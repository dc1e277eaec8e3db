"""KAN convolutions in 1, 2 and 3 dimensions: one body, any basis, optional bottleneck."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanseg.bases import create_basis
from kanseg.layers.functional import activation_convolution, basis_convolution
from kanseg.layers.parts import activation_module, exact_constants, init_branches, init_to_variance, inner_width, norm_module

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
Size = int | tuple[int, ...]


class _KANConv(nn.Module):
    """The body of KANConv1d, KANConv2d and KANConv3d."""

    ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        *,
        basis: str = "bspline",
        inner_channels: int | float | None = None,
        base_activation: str | Callable[[], nn.Module] | None = "silu",
        norm: str | Callable[[int], nn.Module] | None = "batch",
        activation: str | Callable[[], nn.Module] | None = "silu",
        dropout: float = 0.0,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **basis_options: object,
    ):
        super().__init__()
        self._check(in_channels, out_channels, groups, basis, basis_options)
        conv_class = CONVS[self.ndim]
        where = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": padding_mode}
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.dropout = nn.Dropout(dropout)
        self.squeeze: nn.Module = nn.Identity()
        self.expand: nn.Module = nn.Identity()
        self.basis = self.basis_conv = None
        self.base_activation, self.base_conv = nn.Identity(), None
        if basis == "none" or base_activation is not None:
            self.base_activation = activation_module(None if basis == "none" else base_activation)
            self.base_conv = conv_class(in_channels, out_channels, kernel_size, groups=groups, bias=False, **where)
        if basis != "none":
            inner_in, inner_out = in_channels, out_channels
            if inner_channels is not None:
                inner_in = inner_out = groups * inner_width(inner_channels, in_channels // groups, out_channels // groups)
                self.squeeze = conv_class(in_channels, inner_in, 1, groups=groups, bias=False)
                self.expand = conv_class(inner_out, out_channels, 1, groups=groups, bias=False)
            with exact_constants(dtype):
                self.basis = create_basis(basis, inner_in, **basis_options)
            expanded = inner_in * self.basis.num_functions
            self.basis_conv = conv_class(expanded, inner_out, kernel_size, groups=groups, bias=False, **where)
        self.norm = norm_module(norm, out_channels, self.ndim)
        self.activation = activation_module(activation)
        self.reset_parameters()
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    def _check(self, in_channels: int, out_channels: int, groups: int, basis: str, basis_options: dict[str, object]) -> None:
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or value < 1 or value % groups:
                raise ValueError(f"{name} must be positive and divisible by groups, got {name}={value}, groups={groups}")
        if basis == "none" and basis_options:
            raise ValueError(f"basis 'none' is the plain convolution and has no options, got {', '.join(basis_options)}")

    def reset_parameters(self) -> None:
        """Draw the convolutions so that the output, before the norm, has variance 1 for N(0, 1) input."""
        basis_weight = None if self.basis_conv is None else self.basis_conv.weight
        base_weight = None if self.base_conv is None else self.base_conv.weight
        init_branches(self.basis, basis_weight, self.base_activation, base_weight)
        for projection in (self.squeeze, self.expand):
            if isinstance(projection, CONVS[self.ndim]):
                init_to_variance(projection.weight, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_channels, *S'), S' as of a plain convolution."""
        return self.activation(self.norm(self.convolve(self.dropout(x))))

    def convolve(self, x: Tensor) -> Tensor:
        """The sum of the two branches, before norm and activation."""
        parts = []
        if self.basis is not None:
            parts.append(self.expand(basis_convolution(self.squeeze(x), self.basis, self.basis_conv)))
        if self.base_conv is not None:
            parts.append(activation_convolution(x, self.base_activation, self.base_conv))
        return sum(parts[1:], parts[0])


_DOC = """A Kolmogorov-Arnold convolution over {axes}: every weight of the kernel is a learned univariate function.

    `y = expand(basis_conv(basis(squeeze(x)))) + base_conv(base_activation(x))`, then `activation(norm(y))`;
    (B, in_channels, {shape}) -> (B, out_channels, {shape}') with the output size of `torch.nn.Conv{n}d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: as of `torch.nn.Conv{n}d`.
            Zero padding pads the functions' values, not their arguments.
        basis: a name of `kanseg.list_bases()`; "none" is the plain convolution (base branch only, without its activation).
        inner_channels: width of the bottleneck around the basis (1x1 convolutions `squeeze` and `expand`): a number, or a float
            for a share of the wider side (at least 16 where the layer has 16); None for no bottleneck.
        base_activation: name, callable, or None for no base branch.
        norm: "batch", "instance", "group", "layer", a callable of the channel count, or None.
        activation: name, callable or None, after the norm.
        dropout: probability that an input entry is zeroed in training.
        basis_options: as the basis has them (degree, grid_size, spline_order, grid_range, domain, ...).

    Raises:
        ValueError: channels not divisible by groups, unknown names, options that the basis does not have.
    """


class KANConv1d(_KANConv):  # noqa: D101 - below
    __doc__ = _DOC.format(axes="sequences", shape="W", n=1)
    ndim = 1


class KANConv2d(_KANConv):  # noqa: D101 - below
    __doc__ = _DOC.format(axes="pictures", shape="H, W", n=2)
    ndim = 2


class KANConv3d(_KANConv):  # noqa: D101 - below
    __doc__ = _DOC.format(axes="volumes", shape="D, H, W", n=3)
    ndim = 3
