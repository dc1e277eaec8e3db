"""The common class of all layers of torch-conv-kan: two branches, a norm and an activation. A
`Variant` holds the differences.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.bases.base import check_floating
from kanseg.compat.torch_conv_kan.bases import DOMAINS
from kanseg.compat.torch_conv_kan.parts import GroupedLinear, apply_by_group
from kanseg.compat.torch_conv_kan.variants import (
    INITIAL_STD,
    Options,
    Site,
    Variant,
    bottleneck_width,
    uniform_bound,
)
from kanseg.layers.fused.functional import activation_convolution, basis_convolution
from kanseg.layers.kan_conv import CONVS
from kanseg.layers.parts import reset

DROPOUTS = {0: nn.Dropout, 1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}


def call_signature(required: str, rest: str | None = None, **defaults: object) -> inspect.Signature:
    """The signature (required, ..., name=default, ..., **rest) of a generated class or function."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in required.split()]
    parameters += [inspect.Parameter(name, kind, default=value) for name, value in defaults.items()]
    if rest is not None:
        parameters.append(inspect.Parameter(rest, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters)


def bind_call(
    signature: inspect.Signature, args: tuple, kwargs: dict[str, object]
) -> dict[str, object]:
    """All arguments of a call by name, including defaults; TypeError if they do not match the
    signature.
    """
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _linear_map(
    ndim: int,
    in_channels: int,
    out_channels: int,
    *,
    bias: bool = False,
    groups: int = 1,
    **conv_options: object,
) -> nn.Module:
    """A convolution over `ndim` axes, or a linear layer for 0 axes."""
    if ndim > 0:
        return CONVS[ndim](in_channels, out_channels, bias=bias, groups=groups, **conv_options)
    if groups == 1:
        return nn.Linear(in_channels, out_channels, bias=bias)
    return GroupedLinear(in_channels, out_channels, groups)


class _LegacyLayer(nn.Module):
    """activation(norm(y)) with y = expand(basis_conv(basis(u(squeeze(x))))) +
    base_conv(base_activation(x)) and a domain map u: (B, in_channels, *S) -> (B, out_channels,
    *S').
    """

    family: ClassVar[str]
    variant: ClassVar[Variant]
    ndim: ClassVar[int]

    def _build(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Callable[[int], nn.Module],
        options: Options,
        groups: int = 1,
        dropout: float = 0.0,
        base_activation: Callable[[], nn.Module] = nn.SiLU,
        **conv_options: object,
    ) -> None:
        """Create the parts. `conv_options`: kernel_size, stride, padding and dilation; none for a
        flat layer.
        """
        variant, ndim = self.variant, self.ndim
        for name, value in (("input", in_channels), ("output", out_channels)):
            if groups < 1 or value < 1 or value % groups:
                raise ValueError(
                    f"{name} channels must be positive and divisible by groups, got {value}"
                    f" channels and groups={groups}"
                )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        point = {} if ndim == 0 else {"kernel_size": 1, "groups": groups}
        inner_in, inner_out = in_channels, out_channels
        self.squeeze: nn.Module = nn.Identity()
        self.expand: nn.Module = nn.Identity()
        if variant.bottleneck:
            width = bottleneck_width(
                in_channels // groups,
                out_channels // groups,
                options["dim_reduction"],
                options["min_internal"],
            )
            inner_in = inner_out = groups * width
            self.squeeze = _linear_map(
                ndim, in_channels, inner_in, bias="squeeze" in variant.biased, **point
            )
        if variant.bottleneck or (variant.pairwise and ndim > 0):
            self.expand = _linear_map(
                ndim, inner_out, out_channels, bias="expand" in variant.biased, **point
            )
        self.base_activation, self.base_conv = nn.Identity(), None
        if variant.base and options.get("use_base_update", True):
            self.base_activation = base_activation() if variant.base_activation else nn.Identity()
            self.base_conv = _linear_map(
                ndim,
                in_channels,
                out_channels,
                bias="base_conv" in variant.biased,
                groups=groups,
                **conv_options,
            )
        taps = 1 if self.base_conv is None else self.base_conv.weight[0, 0].numel()
        self.basis = variant.basis(
            Site(inner_in, inner_out, groups, taps, base_activation), options
        )
        self.original_basis: nn.Module | None = None  # set by use_original_rounding
        self.basis_conv = _linear_map(
            ndim,
            inner_in * self.basis.num_functions,
            inner_out,
            bias="basis_conv" in variant.biased,
            groups=inner_out if variant.pairwise else groups,
            **conv_options,
        )
        self.norm = nn.ModuleList()
        if variant.norm is not None:
            normalized = in_channels if variant.norm == "before" else out_channels
            self.norm.extend(norm(normalized // groups) for _ in range(groups))
        self.activation = nn.ModuleList()
        if variant.activation == "prelu":
            self.activation.extend(nn.PReLU() for _ in range(groups))
        elif variant.activation == "act":
            self.activation.append(base_activation())
        self.dropout: nn.Module = nn.Identity()
        if dropout > 0:
            self.dropout = (variant.dropout or DROPOUTS[ndim])(dropout)
        self._draw_weights()

    def reset_parameters(self) -> None:
        """Reset the layer to its initial state, with new weights."""
        for part in self.children():
            reset(part)
        self._draw_weights()

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """Draw the weights with torch-conv-kan's variances, to within a fifth; biases are 0."""
        init = {
            "base_conv": self.variant.base_init,
            "squeeze": "fan_in",
            "expand": "fan_in",
            "basis_conv": self.variant.init,
        }
        for name, rule in init.items():
            weight = getattr(getattr(self, name), "weight", None)
            bias = getattr(getattr(self, name), "bias", None)
            if weight is not None:
                fan_in, outputs = weight[0].numel(), weight.shape[0] // self.groups
                std = INITIAL_STD[rule](fan_in, outputs, self.groups)
                if name == "basis_conv":
                    std = self.options.get("spline_weight_init_scale", std)
                weight.uniform_(-uniform_bound(std), uniform_bound(std))
            if bias is not None:
                bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_channels, *S'), with S' as for a plain convolution; for a
        flat layer (..., in_channels) -> (..., out_channels).
        """
        axis = 1 if self.ndim else -1
        if (self.ndim and x.dim() != self.ndim + 2) or x.shape[axis] != self.in_channels:
            expected = f"(..., {self.in_channels})"
            if self.ndim:
                expected = f"(B, {self.in_channels}, {', '.join('DHW'[-self.ndim :])})"
            raise ValueError(
                f"{type(self).__name__} expects a tensor {expected}, got shape {tuple(x.shape)}"
            )
        check_floating(x)
        if self.ndim:
            return self._compute(x)
        y = self._compute(x.reshape(-1, self.in_channels))
        return y.reshape(*x.shape[:-1], self.out_channels)

    def _compute(self, x: Tensor) -> Tensor:
        x = self._drop("input", x)
        y = self._functions(x)
        if self.base_conv is not None:
            y = y + activation_convolution(x, self.base_activation, self.base_conv)
        if self.variant.norm == "after":
            y = apply_by_group(self.norm, y)
        return self._drop("output", apply_by_group(self.activation, y))

    def _functions(self, x: Tensor) -> Tensor:
        z = self.squeeze(self._drop("branch", x))
        if self.variant.norm == "before":
            z = apply_by_group(self.norm, z)
        u = self._drop("argument", DOMAINS[self.variant.domain](z, self.groups))
        if self.original_basis is not None:
            return self.expand(self.basis_conv(self.original_basis(u).flatten(1, 2)))
        if isinstance(self.basis, Basis) and (
            self.variant.dropout_at != "values" or isinstance(self.dropout, nn.Identity)
        ):
            return self.expand(basis_convolution(u, self.basis, self.basis_conv))
        return self.expand(self.basis_conv(self._drop("values", self.basis(u).flatten(1, 2))))

    def _drop(self, location: str, x: Tensor) -> Tensor:
        return self.dropout(x) if location == self.variant.dropout_at else x

    def extra_repr(self) -> str:
        options = "".join(f", {k}={v}" for k, v in self.options.items())
        return f"{self.in_channels}, {self.out_channels}, groups={self.groups}{options}"
