"""KAN convolutions in 1, 2 and 3 dimensions, with any basis, an optional bottleneck, and functions
per edge or shared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from kanseg.bases import create_basis
from kanseg.bases.base import check_floating
from kanseg.layers.activation import KANActivation, check_share, initial_activation
from kanseg.layers.fused.functional import activation_convolution, basis_convolution
from kanseg.layers.grids import Adaptive
from kanseg.layers.inspection.curves import (
    FunctionInputs,
    FunctionWeights,
    HasCurves,
    edge_weights,
)
from kanseg.layers.parts import (
    activation_module,
    check_function_init,
    exact_constants,
    init_branches,
    init_to_variance,
    inner_width,
    norm_module,
    reset,
)
from kanseg.layers.regularization import FeatureNoise
from kanseg.layers.surgery import (
    check_can_reset,
    check_changeable,
    set_conv_channels,
)

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POSITIONS = ("after_norm", "before_conv")
Size = int | tuple[int, ...]


class _KANConv(nn.Module, Adaptive, HasCurves):  # FSDP2 needs nn.Module first
    """Base class of KANConv1d, KANConv2d and KANConv3d, which are documented below."""

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
        share: str | int = "edge",
        position: str | None = None,
        function_init: str = "normal",
        base_activation: str | Callable[[], nn.Module] | None = "silu",
        norm: str | Callable[[int], nn.Module] | None = "batch",
        activation: str | Callable[[], nn.Module] | None = "silu",
        dropout: float = 0.0,
        noise: float = 0.0,
        dropout_at: str = "input",
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **basis_options: object,
    ):
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or value < 1 or value % groups:
                raise ValueError(
                    f"{name} must be positive and divisible by groups, got {name}={value},"
                    f" groups={groups}"
                )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.share = check_share(share)
        self.function_init = check_function_init(function_init, base_activation is not None)
        self.feature_noise = FeatureNoise(dropout, noise, dropout_at, self.ndim)
        if share != "edge" and basis != "none":
            if inner_channels is not None:
                raise ValueError(
                    "a bottleneck (inner_channels) needs share='edge': shared functions have no"
                    " convolution that it could make smaller"
                )
            position = position or "after_norm"
            if position not in POSITIONS:
                raise ValueError(
                    f"position must be one of {', '.join(POSITIONS)}, got {position!r}"
                )
            learned = partial(
                KANActivation,
                basis=basis,
                share=share,
                feature_noise=self.feature_noise,
                dtype=dtype,
                **basis_options,
            )
            if position == "after_norm":
                activation_module(base_activation)  # not used, but its name is checked
                activation = partial(learned, out_channels, base=activation)
                base_activation = None
            else:
                base_activation = partial(learned, in_channels, base=base_activation)
            basis, basis_options = "none", {}
        elif basis == "none":
            base_activation = None
        elif position is not None:
            raise ValueError(
                f"position={position!r} needs shared functions: share='channel', 'layer' or a"
                " number; with share='edge' the functions are in the convolution"
            )
        conv_class = CONVS[self.ndim]
        conv_options = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "padding_mode": padding_mode,
        }
        self.base_activation, self.base_conv = nn.Identity(), None
        if basis == "none" or base_activation is not None:
            self.base_activation = activation_module(base_activation, inplace=False)
            self.base_conv = conv_class(
                in_channels, out_channels, groups=groups, bias=False, **conv_options
            )
        self._build_functions(basis, inner_channels, basis_options, conv_options, dtype)
        self.norm = norm_module(norm, out_channels, self.ndim)
        self.activation = activation_module(activation)
        self._draw_weights()
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    def _build_functions(
        self,
        basis: str,
        inner_channels: int | float | None,
        basis_options: dict[str, object],
        conv_options: dict[str, object],
        dtype: object,
    ) -> None:
        """Set squeeze, basis, basis_conv and expand; missing parts are Identity or None."""
        conv_class, groups = CONVS[self.ndim], self.groups
        inner_in, inner_out = self.in_channels, self.out_channels
        self.squeeze: nn.Module = nn.Identity()
        self.expand: nn.Module = nn.Identity()
        self.basis = self.basis_conv = None
        if basis == "none":
            if basis_options:
                raise ValueError(
                    "basis 'none' is the plain convolution and has no options, got"
                    f" {', '.join(basis_options)}"
                )
            return
        if inner_channels is not None:
            inner_in = inner_out = groups * inner_width(
                inner_channels, inner_in // groups, inner_out // groups
            )
            self.squeeze = conv_class(self.in_channels, inner_in, 1, groups=groups, bias=False)
            self.expand = conv_class(inner_out, self.out_channels, 1, groups=groups, bias=False)
        with exact_constants(dtype):
            self.basis = create_basis(basis, inner_in, **basis_options)
        expanded = inner_in * self.basis.num_functions
        self.basis_conv = conv_class(expanded, inner_out, groups=groups, bias=False, **conv_options)

    def reset_parameters(self) -> None:
        """Reset the layer to its initial state: new weights, initial grids, wavelet locations,
        denominators, norms and slopes of activations.

        With the same seed the weights are those of a new layer. A changed number of functions
        (`refine`, `raise_degree`) is kept. Reset a whole network from the inside out, with
        `network.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else
        None)`; a loop over `modules()` resets the inner convolutions last, with torch's own
        initialization.

        Raises:
            ValueError: weights that are parametrized, pruned, wrapped or sharded.
        """
        check_can_reset(self)
        for part in self.children():
            reset(part)
        self._draw_weights()

    def _draw_weights(self) -> None:
        """Draw the weights so that the output before the norm has variance 1 for N(0, 1) input."""
        init_branches(
            self.basis,
            self.basis_conv,
            initial_activation(self.base_activation),
            self.base_conv,
            function_init=self.function_init,
        )
        for projection in (self.squeeze, self.expand):
            if isinstance(projection, CONVS[self.ndim]):
                init_to_variance(projection.weight, 1.0)

    @property
    def functions_weight(self) -> nn.Parameter | None:
        """Coefficients of the functions per edge (O, C / groups * K, *kernel).

        None with basis "none" and with shared functions, which are in a `KANActivation`.
        """
        return None if self.basis is None else self.basis_conv.weight

    def _set_functions_weight(self, weight: nn.Parameter) -> None:
        self.basis_conv.weight = weight
        self.basis_conv.in_channels = self.basis.channels * self.basis.num_functions

    @torch.no_grad()
    def set_in_channels(self, in_channels: int) -> None:
        """Change the number of input channels and adapt the learned weights.

        A single channel gets the sum of the old weights, so that a gray image has the same output
        as when it was repeated for each channel (exact if the functions have no state per channel,
        or with a bottleneck). More channels get the weights of channel i mod old, times old / new.
        The state of a basis per channel (adapted knots, learned locations) is copied in the same
        way. This replaces parameters: create the optimizer afterwards.

        Raises:
            ValueError: fewer than one channel, a layer of several groups, or weights that are
                parametrized or pruned.
        """
        old, new = self.in_channels, in_channels
        if new < 1 or self.groups != 1:
            raise ValueError(
                f"only a layer of one group can be set to 1 channel or more, got in_channels={new},"
                f" groups={self.groups}"
            )
        check_changeable(self)
        if new == old:
            return
        if self.base_conv is not None:
            set_conv_channels(self.base_conv, old, new)
        if isinstance(self.squeeze, CONVS[self.ndim]):
            set_conv_channels(self.squeeze, old, new)
        elif self.basis is not None:
            set_conv_channels(self.basis_conv, old, new)
            self.basis.set_channels(new)
        if isinstance(self.base_activation, KANActivation):
            self.base_activation.set_channels(new)
        self.in_channels = new

    def basis_input(self, x: Tensor) -> Tensor:
        """The input of the basis for the layer's input x, before the domain map."""
        return self.squeeze(x)

    def function_weights(self) -> FunctionWeights:
        """The coefficients of all functions; without the base branch if there is a bottleneck,
        which only the functions are in.
        """
        base = self.base_conv if self._has_base_per_edge() else None
        return edge_weights(self.basis_conv, base, self.basis.num_functions, self.groups)

    def evaluate(self, inputs: FunctionInputs) -> tuple[Tensor | None, Tensor]:
        """The base activation (C, n) and the basis functions (C, K, n)."""
        base = self.base_activation(inputs.x.unsqueeze(0))[0] if self._has_base_per_edge() else None
        return base, self.basis.values_at(inputs.u)

    def _has_base_per_edge(self) -> bool:
        return self.base_conv is not None and isinstance(self.squeeze, nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_channels, *S'), S' as for a plain convolution."""
        if x.dim() != self.ndim + 2 or x.shape[1] != self.in_channels:
            axes = ", ".join("DHW"[-self.ndim :])
            raise ValueError(
                f"{type(self).__name__} expects a tensor (B, {self.in_channels}, {axes}), got shape"
                f" {tuple(x.shape)}"
            )
        check_floating(x)
        return self.activation(self.norm(self.convolve(x)))

    def convolve(self, x: Tensor) -> Tensor:
        """The sum of the two branches, before norm and activation."""
        x = self.feature_noise.at("input", x)
        branches = []
        if self.basis is not None:
            inner = self.squeeze(self.feature_noise.at("branch", x))
            dropout_mask = self.feature_noise.dropout_mask(inner, self.basis.num_functions)
            y = basis_convolution(inner, self.basis, self.basis_conv, dropout_mask)
            branches.append(self.expand(y))
        if self.base_conv is not None:
            branches.append(activation_convolution(x, self.base_activation, self.base_conv))
        return sum(branches[1:], branches[0])


_DOC = """Kolmogorov-Arnold convolution over {axes}: each weight is a learned univariate function.

    `y = expand(basis_conv(basis(squeeze(x)))) + base_conv(base_activation(x))`, then
    `activation(norm(y))`; (B, in_channels, {shape}) -> (B, out_channels, {shape}') with the output
    size of `torch.nn.Conv{n}d`. With shared functions it is one ordinary convolution and a learned
    activation phi (`KANActivation`): `phi(norm(base_conv(x)))`, or
    `activation(norm(base_conv(phi(x))))`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode:
            as in `torch.nn.Conv{n}d`. Zero padding pads the functions' values, not their arguments.
        basis: a name of `kanseg.list_bases()`; "none" is the plain convolution (base branch only,
            without its activation).
        inner_channels: width of the bottleneck around the basis (1x1 convolutions `squeeze` and
            `expand`): an integer, or a float for a fraction of the wider side (at least 16 channels
            if the layer has 16); None for no bottleneck.
        share: "edge" for a separate function on every weight, "channel" for one function per
            channel, "layer" for a single function, or the number of functions. With shared
            functions the layer is a plain convolution with a learned activation
            (`KANActivation`), at about the same cost.
        position: location of shared functions: "after_norm" (default) adds them to `activation`,
            "before_conv" to `base_activation`.
        function_init: initialization of functions per edge: "normal" draws their coefficients,
            "zero" starts with the base branch alone. Shared functions start at zero, or as a fit of
            SiLU where there is no activation that they are added to.
        base_activation: name, callable, or None for no base branch. With shared functions it is
            used at "before_conv" only, where None lets them start as a fit of SiLU.
        norm: "batch", "instance", "group", "layer", a callable of the channel count, or None.
        activation: name, callable or None, after the norm.
        dropout: probability that a channel is zeroed in training.
        noise: fraction of the entries to which noise is added in training (`NoiseInjection`).
        dropout_at: where dropout and noise are applied: "input" of both branches, "branch" for the
            input of the functions only, "functions" to drop single functions of a channel.
        basis_options: options of the basis (degree, grid_size, spline_order, grid_range, domain,
            ...).

    Raises:
        ValueError: channels not divisible by groups, unknown names, options that the basis does not
        have; an input of another shape, or of integers.
    """


class KANConv1d(_KANConv):  # noqa: D101 - below
    __doc__ = _DOC.format(axes="sequences", shape="W", n=1)
    ndim = 1


class KANConv2d(_KANConv):  # noqa: D101 - below
    __doc__ = _DOC.format(axes="images", shape="H, W", n=2)
    ndim = 2


class KANConv3d(_KANConv):  # noqa: D101 - below
    __doc__ = _DOC.format(axes="volumes", shape="D, H, W", n=3)
    ndim = 3
