"""KAN convolutions in 1, 2 and 3 dimensions: one body, any basis, optional bottleneck, functions
shared or not.
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
    check_changeable,
    check_drawable,
    set_conv_channels,
)

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POSITIONS = ("after_norm", "before_conv")
Size = int | tuple[int, ...]


class _KANConv(nn.Module, Adaptive):  # FSDP2 needs nn.Module first
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
                    "a bottleneck (inner_channels) is of share='edge': shared functions cost no"
                    " convolution that it could make smaller"
                )
            position = position or "after_norm"
            learned = self._learned_activation(position, basis, basis_options, dtype)
            if position == "after_norm":
                activation = partial(learned, out_channels, base=activation)
                base_activation = None
            else:
                base_activation = partial(learned, in_channels, base=base_activation)
            basis, basis_options = "none", {}
        elif basis == "none":
            base_activation = None
        elif position is not None:
            raise ValueError(
                f"position={position!r} is of shared functions: share='channel', 'layer' or a"
                " number; functions of each edge are in the convolution"
            )
        conv_class = CONVS[self.ndim]
        where = {
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
                in_channels, out_channels, groups=groups, bias=False, **where
            )
        self._build_functions(basis, inner_channels, basis_options, where, dtype)
        self.norm = norm_module(norm, out_channels, self.ndim)
        self.activation = activation_module(activation)
        self._draw_weights()
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    def _learned_activation(
        self, position: str, basis: str, options: dict[str, object], dtype: object
    ) -> Callable[..., nn.Module]:
        """What makes the activation that holds the shared functions."""
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, got {position!r}")
        return partial(
            KANActivation,
            basis=basis,
            share=self.share,
            feature_noise=self.feature_noise,
            dtype=dtype,
            **options,
        )

    def _build_functions(
        self,
        basis: str,
        inner_channels: int | float | None,
        options: dict[str, object],
        where: dict[str, object],
        dtype: object,
    ) -> None:
        """squeeze, basis, basis_conv, expand; those that the layer does not have are Identity or
        None.
        """
        conv_class, groups, inner_in, inner_out = (
            CONVS[self.ndim],
            self.groups,
            self.in_channels,
            self.out_channels,
        )
        self.squeeze: nn.Module = nn.Identity()
        self.expand: nn.Module = nn.Identity()
        self.basis = self.basis_conv = None
        if basis == "none":
            if options:
                raise ValueError(
                    "basis 'none' is the plain convolution and has no options, got"
                    f" {', '.join(options)}"
                )
            return
        if inner_channels is not None:
            inner_in = inner_out = groups * inner_width(
                inner_channels, inner_in // groups, inner_out // groups
            )
            self.squeeze = conv_class(self.in_channels, inner_in, 1, groups=groups, bias=False)
            self.expand = conv_class(inner_out, self.out_channels, 1, groups=groups, bias=False)
        with exact_constants(dtype):
            self.basis = create_basis(basis, inner_in, **options)
        expanded = inner_in * self.basis.num_functions
        self.basis_conv = conv_class(expanded, inner_out, groups=groups, bias=False, **where)

    def reset_parameters(self) -> None:
        """Put the layer back to what it was when it was built: new weights, and everything else
        (grids, places, denominators, norm, slopes of activations) where it started.

        With the same seed the weights are those that a new layer would get. A number of functions
        that was changed stays (`refine`, `raise_degree`). A whole network is reset from the inside
        out, `network.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else
        None)`; a loop over `modules()` reaches the inner convolutions last, and leaves them with
        torch's own weights.

        Raises:
            ValueError: weights that are parametrized, pruned, wrapped or sharded.
        """
        check_drawable(self)
        for part in self.children():
            reset(part)
        self._draw_weights()

    def _draw_weights(self) -> None:
        """Draw the convolutions so that the output, before the norm, has variance 1 for N(0, 1)
        input.
        """
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
        """Coefficients of the functions of each edge (O, C / groups * K, *kernel); None with basis
        "none", and where the functions are shared: those are in a `KANActivation`.
        """
        return None if self.basis is None else self.basis_conv.weight

    def _set_functions_weight(self, weight: nn.Parameter) -> None:
        self.basis_conv.weight = weight
        self.basis_conv.in_channels = self.basis.channels * self.basis.num_functions

    @torch.no_grad()
    def set_in_channels(self, in_channels: int) -> None:
        """Read images of another number of channels, keeping what was learned; it replaces
        parameters: make the optimizer anew.

        One channel gets the sum of the old weights, so that a gray image gives what it gave when
        it was repeated for each channel (exact where the functions have no state per channel, or a
        bottleneck). More get those of the old channels in turn, times old / new. What a basis holds
        per channel (adapted knots, learned places) comes from channel i mod old too.

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
        """What the basis sees of x, before its domain map."""
        return self.squeeze(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_channels, *S'), S' as of a plain convolution."""
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
        parts = []
        if self.basis is not None:
            parts.append(
                self.expand(self._functions(self.squeeze(self.feature_noise.at("branch", x))))
            )
        if self.base_conv is not None:
            parts.append(activation_convolution(x, self.base_activation, self.base_conv))
        return sum(parts[1:], parts[0])

    def _functions(self, x: Tensor) -> Tensor:
        mask = self.feature_noise.dropout_mask(x, self.basis.num_functions)
        return basis_convolution(x, self.basis, self.basis_conv, mask)


_DOC = """A Kolmogorov-Arnold convolution over {axes}: every weight of the kernel is a learned
univariate function.

    `y = expand(basis_conv(basis(squeeze(x)))) + base_conv(base_activation(x))`, then
    `activation(norm(y))`; (B, in_channels, {shape}) -> (B, out_channels, {shape}') with the output
    size of `torch.nn.Conv{n}d`. With shared functions it is one ordinary convolution and a learned
    activation phi (`KANActivation`): `phi(norm(base_conv(x)))`, or
    `activation(norm(base_conv(phi(x))))`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode:
            as of `torch.nn.Conv{n}d`. Zero padding pads the functions' values, not their arguments.
        basis: a name of `kanseg.list_bases()`; "none" is the plain convolution (base branch only,
            without its activation).
        inner_channels: width of the bottleneck around the basis (1x1 convolutions `squeeze` and
            `expand`): a number, or a float for a share of the wider side (at least 16 where the
            layer has 16); None for no bottleneck.
        share: "edge" for a function of its own on every weight; "channel" for one function of each
            channel, "layer" for one function, or an integer for as many functions. The shared forms
            are a plain convolution with a learned activation (`KANActivation`), and cost about as
            much.
        position: of shared functions: "after_norm" (None), where they are added to `activation`, or
            "before_conv", where they are added to `base_activation`.
        function_init: of functions of each edge: "normal" draws their coefficients, "zero" starts
            with the base branch alone. Shared functions start at zero in any case.
        base_activation: name, callable, or None for no base branch; of shared functions only at
            "before_conv", where None lets them start as a fit of SiLU.
        norm: "batch", "instance", "group", "layer", a callable of the channel count, or None.
        activation: name, callable or None, after the norm.
        dropout: probability that a channel is zeroed in training.
        noise: share of the entries to which noise is added in training (`NoiseInjection`).
        dropout_at: where both happen: "input" of both branches, "branch" for the functions' input
            only, "functions" for dropping single functions of a channel.
        basis_options: as the basis has them (degree, grid_size, spline_order, grid_range, domain,
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
