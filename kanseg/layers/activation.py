"""Learned activations: one univariate function per channel, or one shared by several channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanseg.bases import create_basis
from kanseg.bases.base import at_least_float32, check_floating, without_autocast
from kanseg.layers.fused.functional import basis_mixture
from kanseg.layers.fused.plain import (
    is_plain_activation,
    is_plain_basis,
    is_plain_tensor,
    is_transformed,
)
from kanseg.layers.grids import Adaptive, evenly_chosen
from kanseg.layers.inspection.curves import (
    FunctionInputs,
    FunctionWeights,
    HasCurves,
)
from kanseg.layers.kernels.horner import (
    is_low_degree_polynomial,
    plain_polynomial,
    polynomial,
    polynomial_variable,
    power_coefficients,
)
from kanseg.layers.kernels.lookup import (
    can_tabulate,
    lookup,
)
from kanseg.layers.kernels.rational import rational
from kanseg.layers.kernels.trigonometric import trigonometric
from kanseg.layers.parts import activation_module, exact_constants, reset
from kanseg.layers.regularization import FeatureNoise
from kanseg.layers.surgery import check_can_reset

# Default options, chosen for inputs that come from a norm: grids over three standard deviations,
# and for polynomials a bounded domain map that does not saturate at two.
OPTIONS: dict[str, dict[str, object]] = {
    "bspline": {"grid_size": 6, "grid_range": (-3.0, 3.0)},
    "rbf": {"grid_range": (-3.0, 3.0)},
}
BOUNDED_DOMAIN = "half_tanh"


class KANActivation(nn.Module, Adaptive, HasCurves):  # FSDP2 needs nn.Module first
    """A learned activation phi_c(x) = base(x) + sum_k w_ck B_k(x), (B, C, *S) -> (B, C, *S).

    All w start at 0, so the activation starts as its base (up to rounding). Without a base (None)
    it starts as the least-squares fit of SiLU for N(0, 1) input. Train the coefficients w with a
    larger learning rate than other weights and without weight decay (`training.function_lr`).

    Args:
        channels: C.
        basis: a name of `kanseg.list_bases()`. Polynomials of a degree up to 6 cost little more
            than the base alone.
        share: "channel" for one function per channel, "layer" for a single function, or the number
            of functions, each shared by about equally many consecutive channels.
        base: activation by name, callable, or None.
        feature_noise: dropout or noise at "branch" (the input of the functions) or "functions".
        basis_options: options of the basis. The defaults fit the output of a norm: grids cover
            [-3, 3], and polynomials read tanh(x / 2).

    Raises:
        ValueError: unknown names or options, fewer than one channel, an input with another number
            of channels, or an integer input.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), KANActivation(16))
    """

    def __init__(
        self,
        channels: int,
        *,
        basis: str = "gram",
        share: str | int = "channel",
        base: str | Callable[[], nn.Module] | None = "silu",
        feature_noise: FeatureNoise | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **basis_options: object,
    ):
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if share == "edge":
            raise ValueError("share='edge' is an option of KANConv and KANLinear only")
        self.channels, self.share = channels, check_share(share)
        self.base = None if base is None else activation_module(base, inplace=False)
        self.feature_noise = feature_noise or FeatureNoise(0.0, 0.0, "branch", ndim=2)
        with exact_constants(dtype):
            self.basis = create_basis(basis, channels, **default_options(basis) | basis_options)
        # Of a pruned layer: the row of the weight of each channel (C,), -1 for the base alone.
        self.register_buffer("row_of_channel", None)
        self.weight = nn.Parameter(torch.empty(self.num_activations, self.basis.num_functions))
        self._draw_weights()
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    @property
    def num_activations(self) -> int:
        """Number of functions: rows of the weight."""
        if self.row_of_channel is not None:
            return len(self.weight)
        if self.share == "channel":
            return self.channels
        if self.share == "layer":
            return 1
        return min(int(self.share), self.channels)

    @property
    def functions_weight(self) -> nn.Parameter:
        """Coefficients of the functions (R, K), with R = num_activations."""
        return self.weight

    def _set_functions_weight(self, weight: nn.Parameter) -> None:
        self.weight = weight

    def basis_input(self, x: Tensor) -> Tensor:
        """The input of the basis before its domain map, which is x itself."""
        return x

    def _pooled(self, samples: Tensor, seed: int) -> Tensor:
        if self.share == "channel":
            return samples
        pooled = samples.clone()
        function_of_channel = self.weight_rows().to(samples.device)
        for function in range(self.num_activations):
            channels = function_of_channel == function
            joined = samples[channels].reshape(1, -1)
            pooled[channels] = evenly_chosen(joined, samples.shape[1], seed)
        return pooled

    def reset_parameters(self) -> None:
        """Reset the functions to their initial state, as `KANConv2d.reset_parameters` does."""
        check_can_reset(self)
        for part in self.children():
            reset(part)
        self._draw_weights()

    @torch.no_grad()
    def _draw_weights(self) -> None:
        if self.weight.is_meta:
            return
        if self.base is not None:
            self.weight.zero_()
            return
        # Least-squares fit of SiLU at points of equal mass under N(0, 1).
        values = self.basis.normal_values()[self._first_channels()].cpu()
        target = nn.functional.silu(self.basis._normal_points()).cpu()
        target = target.expand(len(values), 1, -1)
        solution = torch.linalg.lstsq(values.mT, target.mT, driver="gelsd").solution
        self.weight.copy_(solution.squeeze(2))

    def _first_channels(self) -> Tensor:
        """The first channel of each function, (R,)."""
        functions = torch.arange(self.num_activations).unsqueeze(1)
        uses_function = functions == self.weight_rows()
        return uses_function.int().argmax(1)

    def weight_rows(self) -> Tensor:
        """The row of the weight that each channel uses, (C,); -1 for the base alone."""
        if self.row_of_channel is not None:
            return self.row_of_channel.cpu()
        return torch.arange(self.channels) * self.num_activations // self.channels

    @torch.no_grad()
    def function_of_channel(self) -> Tensor:
        """Index of the function of each channel, (C,).

        Channels that share coefficients have functions of their own if their bases differ (learned
        locations, denominators of groups), and in a pruned layer.
        """
        if self.row_of_channel is not None:
            return torch.arange(self.channels)
        functions = self.weight_rows()
        values = self.basis._values_at(torch.linspace(-3, 3, 32, dtype=torch.float64))
        if torch.equal(values, values[self._first_channels()[functions]]):
            return functions
        return torch.arange(self.channels)

    def function_weights(self) -> FunctionWeights:
        """Factors 1, since `evaluate` returns the sum of the functions."""
        count = int(self.function_of_channel().max()) + 1
        ones = torch.ones_like(at_least_float32(self.weight[:1, :1])).expand(count, 1)
        ones = ones.reshape(count, 1, 1, 1, 1)
        base = None if self.base is None else ones[..., 0]
        return FunctionWeights(base, ones, (count,))

    def evaluate(self, inputs: FunctionInputs) -> tuple[Tensor | None, Tensor]:
        """The base (C, n) and the sum of the functions (C, 1, n)."""
        if self.basis.is_pointwise:
            functions = self._functions(inputs.x.unsqueeze(0), None, silu=False)[0]
        else:
            functions = torch.einsum(
                "ck,ckn->cn", self.channel_weight(), self.basis.values_at(inputs.u)
            )
        base = None if self.base is None else self.base(inputs.x.unsqueeze(0))[0]
        return base, functions.unsqueeze(1)

    @torch.no_grad()
    def set_channels(self, channels: int) -> None:
        """Change the number of channels.

        Channel i gets the function of channel i mod the old number; channels that share a function
        get that of the first of them. This replaces parameters: create the optimizer afterwards.
        """
        functions = self.weight_rows()
        old, self.channels = self.channels, channels
        self.basis.set_channels(channels)
        if self.share == "layer":
            return
        if self.row_of_channel is not None:
            source = torch.arange(channels, device=self.row_of_channel.device) % old
            self.row_of_channel = self.row_of_channel[source]
            return
        self._select_functions(functions[self._first_channels() % old])

    def _select_functions(self, rows: Tensor) -> None:
        weight = self.weight.detach()[rows.to(self.weight.device)]
        self.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)

    @torch.no_grad()
    def keep(self, channels: Tensor, functions: Tensor) -> None:
        """Keep some of the channels and functions, and remove the others.

        A channel that loses its function computes the base alone. This replaces parameters: create
        the optimizer afterwards.

        Args:
            channels: ascending indices of the channels that stay, (C',).
            functions: ascending indices of the functions (rows of the weight) that stay, (R',).

        Raises:
            ValueError: a channel would have neither function nor base.
        """
        new_row = torch.full((self.num_activations,), -1)
        new_row[functions] = torch.arange(len(functions))
        old_row = self.weight_rows()[channels]
        row_of_channel = new_row[old_row]
        row_of_channel[old_row < 0] = -1
        if self.base is None and (row_of_channel < 0).any():
            raise ValueError("without a base every channel needs its function")
        self._select_functions(functions)
        self.basis.select_channels(channels)
        self.channels = len(channels)
        one_each = self.share == "channel" and len(functions) == len(channels)
        self.row_of_channel = None
        if not one_each and self.share != "layer":
            self.row_of_channel = row_of_channel.to(self.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"KANActivation expects a tensor (B, {self.channels}, ...), got shape"
                f" {tuple(x.shape)}"
            )
        check_floating(x)
        function_input = self.feature_noise.at("branch", x)
        dropout_mask = self.feature_noise.dropout_mask(x, self.basis.num_functions)
        is_silu = type(self.base) is nn.SiLU and is_plain_activation(self.base)
        adds_silu = is_silu and function_input is x and self.basis.is_pointwise
        y = self._functions(function_input, dropout_mask, silu=adds_silu)
        if self.base is None or adds_silu:
            return y
        return y + self.base(x)

    def _functions(self, x: Tensor, dropout_mask: Tensor | None, *, silu: bool) -> Tensor:
        """The sum of the functions, plus SiLU of x on request: (B, C, *S) -> (B, C, *S).

        Computed as a polynomial, a table, a rational function or a sum of sines where one of them
        applies, without autocast.
        """
        with without_autocast(x):
            return self._functions_in_own_precision(x, dropout_mask, silu)

    def _functions_in_own_precision(
        self, x: Tensor, dropout_mask: Tensor | None, silu: bool
    ) -> Tensor:
        weight = at_least_float32(self.channel_weight())
        is_plain = is_plain_tensor(x) and is_plain_tensor(weight) and is_plain_basis(self.basis)
        if is_plain and dropout_mask is None:
            is_eager = x.numel() > 0 and not is_transformed()
            if is_low_degree_polynomial(self.basis):
                powers = power_coefficients(self.basis, weight.device).to(weight.dtype)
                compute = polynomial if is_eager else plain_polynomial
                t = polynomial_variable(self.basis)
                return compute(self.basis.normalized(x), weight @ powers, t, silu)
            if is_eager:
                for compute in (lookup, rational, trigonometric):
                    y = compute(x, weight, self.basis, silu)
                    if y is not None:
                        return y
        y = basis_mixture(x, self.basis, weight, dropout_mask).to(x.dtype)
        if silu:
            y = y + nn.functional.silu(x)
        return y

    def channel_weight(self) -> Tensor:
        """Coefficients of each channel's function (C, K), or (1, K) for a single function."""
        if self.row_of_channel is not None:
            none = self.weight.new_zeros(1, self.weight.shape[1])
            return torch.cat([self.weight, none])[self.row_of_channel]  # -1: the last row
        if 1 < len(self.weight) < self.channels:
            return self.weight[self.weight_rows().to(self.weight.device)]
        return self.weight

    def can_freeze(self) -> bool:
        """True if the function can be written as a polynomial or a table."""
        if not is_plain_basis(self.basis) or not is_plain_tensor(self.weight):
            return False
        return is_low_degree_polynomial(self.basis) or can_tabulate(self.basis)

    def extra_repr(self) -> str:
        return f"{self.channels}, share={self.share!r}"


def initial_activation(activation: nn.Module) -> nn.Module:
    """The activation that a learned activation starts as; any other activation itself."""
    if not isinstance(activation, KANActivation):
        return activation
    if activation.base is None:
        return nn.SiLU()
    return activation.base


def check_share(share: str | int) -> str | int:
    """Return `share` if it is valid: "edge", "channel", "layer" or a number of functions."""
    number = isinstance(share, int) and not isinstance(share, bool) and share >= 1
    if number or share in ("edge", "channel", "layer"):
        return share
    raise ValueError(
        "share must be 'edge', 'channel', 'layer' or a number of functions (at least 1), got"
        f" {share!r}"
    )


def default_options(basis: str) -> dict[str, object]:
    """Default options of a basis in an activation, which fit the output of a norm."""
    if basis in ("legendre", "chebyshev", "gram", "jacobi"):
        return {"domain": BOUNDED_DOMAIN}
    return OPTIONS.get(basis, {})
