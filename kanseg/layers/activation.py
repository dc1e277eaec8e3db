"""An activation that learns its shape: one univariate function for each channel, or for several."""

from __future__ import annotations

import copy
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
from kanseg.layers.kernels.horner import (
    collapses,
    plain_polynomial,
    polynomial,
    power_coefficients,
    variable,
)
from kanseg.layers.kernels.lookup import (
    can_tabulate,
    lookup,
    plain_lookup,
    samples_of,
    tabulate,
)
from kanseg.layers.kernels.rational import quotient
from kanseg.layers.parts import activation_module, exact_constants, reset
from kanseg.layers.regularization import FeatureNoise
from kanseg.layers.surgery import check_drawable

# What fits the output of a norm, unless the caller says otherwise: grids over three standard
# deviations, and a bounded map that is not flat from two of them on.
OPTIONS: dict[str, dict[str, object]] = {
    "bspline": {"grid_size": 6, "grid_range": (-3.0, 3.0)},
    "rbf": {"grid_range": (-3.0, 3.0)},
}
BOUNDED_DOMAIN = "half_tanh"


class KANActivation(nn.Module, Adaptive):  # FSDP2 needs nn.Module first
    """A learned activation phi_c(x) = base(x) + sum_k w_ck B_k(x), (B, C, *S) -> (B, C, *S).

    It starts as its base, exactly: all w are 0. Without a base (None) it starts as the
    least-squares fit of SiLU for N(0, 1) input. In training the coefficients w want a larger
    learning rate than other weights and no weight decay (`training.function_lr` does that).

    Args:
        channels: C.
        basis: a name of `kanseg.list_bases()`. Polynomials of a degree up to 6 cost little more
            than the base alone.
        share: "channel" for a function of each channel, "layer" for one function, or an integer
            for as many functions, each of a run of about equally many channels.
        base: activation by name, callable, or None.
        feature_noise: dropout or noise at "branch" (what the functions read) or "functions".
        basis_options: as the basis has them. Defaults fit the output of a norm: grids cover
            [-3, 3], and polynomials see tanh(x / 2).

    Raises:
        ValueError: unknown names or options, fewer than one channel; input of another number of
            channels, or of integers.

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
            raise ValueError("functions of each edge are a KANConv's or KANLinear's, share='edge'")
        self.channels, self.share = channels, check_share(share)
        self.base = None if base is None else activation_module(base, inplace=False)
        self.feature_noise = feature_noise or FeatureNoise(0.0, 0.0, "branch", ndim=2)
        with exact_constants(dtype):
            self.basis = create_basis(basis, channels, **default_options(basis) | basis_options)
        self.weight = nn.Parameter(torch.empty(self.num_activations, self.basis.num_functions))
        self._draw_weights()
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    @property
    def num_activations(self) -> int:
        """Number of functions: rows of the weight."""
        if self.share == "channel":
            return self.channels
        if self.share == "layer":
            return 1
        return min(int(self.share), self.channels)

    @property
    def functions_weight(self) -> nn.Parameter:
        """Coefficients of the functions (R, K); R of 1, the number of functions, or C."""
        return self.weight

    def _set_functions_weight(self, weight: nn.Parameter) -> None:
        self.weight = weight

    def basis_input(self, x: Tensor) -> Tensor:
        """What the basis sees of x, before its domain map: x."""
        return x

    def _pooled(self, samples: Tensor, seed: int) -> Tensor:
        if self.share == "channel":
            return samples
        activations, pooled = self._activation_of_channel(), torch.empty_like(samples)
        for activation in range(self.num_activations):
            mine = (activations == activation).to(samples.device)
            together = samples[mine].reshape(1, -1)
            pooled[mine] = evenly_chosen(together, samples.shape[1], seed)
        return pooled

    def reset_parameters(self) -> None:
        """Put the functions back to what they were when they were built, as of `KANConv2d`."""
        check_drawable(self)
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
        # Least squares for SiLU at points of equal mass under N(0, 1).
        values = self.basis.normal_values()[self._first_channels()].cpu()
        target = nn.functional.silu(self.basis._normal_points()).cpu()
        target = target.expand(len(values), 1, -1)
        solution = torch.linalg.lstsq(values.mT, target.mT, driver="gelsd").solution
        self.weight.copy_(solution.squeeze(2))

    def _first_channels(self) -> Tensor:
        """The first channel of each function, (R,)."""
        activations = self._activation_of_channel()
        first = torch.arange(self.num_activations).unsqueeze(1) == activations
        return first.int().argmax(1)

    def _activation_of_channel(self) -> Tensor:
        """Which function each channel has, (C,)."""
        return torch.arange(self.channels) * self.num_activations // self.channels

    @torch.no_grad()
    def set_channels(self, channels: int) -> None:
        """Go over to another number of channels. Channel i gets the function of i mod the old
        number, and a run of channels that share a function that of its first one. It replaces
        parameters: make the optimizer anew.
        """
        functions = self._activation_of_channel()
        old, self.channels = self.channels, channels
        self.basis.set_channels(channels)
        if self.share == "layer":
            return
        source = functions[self._first_channels() % old].to(self.weight.device)
        requires_grad = self.weight.requires_grad
        self.weight = nn.Parameter(self.weight[source], requires_grad=requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"KANActivation expects a tensor (B, {self.channels}, ...), got shape"
                f" {tuple(x.shape)}"
            )
        check_floating(x)
        seen = self.feature_noise.at("branch", x)
        dropout_mask = self.feature_noise.dropout_mask(x, self.basis.num_functions)
        silu = type(self.base) is nn.SiLU and is_plain_activation(self.base)
        fused = silu and seen is x and self.basis.is_pointwise
        y = self._functions(seen, dropout_mask, silu=fused)
        if self.base is None or fused:
            return y
        return y + self.base(x)

    def _functions(self, x: Tensor, dropout_mask: Tensor | None, *, silu: bool) -> Tensor:
        """The sum of the functions, and SiLU of x if asked for: (B, C, *S) -> (B, C, *S)."""
        with without_autocast(x):
            return self._exact_functions(x, dropout_mask, silu)

    def _exact_functions(self, x: Tensor, dropout_mask: Tensor | None, silu: bool) -> Tensor:
        weight = at_least_float32(self.channel_weight())
        plain = is_plain_tensor(x) and is_plain_tensor(weight) and is_plain_basis(self.basis)
        if plain and dropout_mask is None and collapses(self.basis):
            powers = power_coefficients(self.basis, weight.device).to(weight.dtype)
            coefficients = weight @ powers
            x, t = self.basis.normalized(x), variable(self.basis)
            if x.numel() == 0 or is_transformed():
                return plain_polynomial(x, coefficients, t, silu)
            return polynomial(x, coefficients, t, silu)
        eager = plain and dropout_mask is None and x.numel() > 0 and not is_transformed()
        if eager:
            for compute in (lookup, quotient):
                y = compute(x, weight, self.basis, silu)
                if y is not None:
                    return y
        y = basis_mixture(x, self.basis, weight, dropout_mask).to(x.dtype)
        return y + nn.functional.silu(x) if silu else y

    def channel_weight(self) -> Tensor:
        """Coefficients of each channel's function (C, K), or (1, K) where all have the same."""
        if 1 < len(self.weight) < self.channels:
            return self.weight[self._activation_of_channel().to(self.weight.device)]
        return self.weight

    def can_freeze(self) -> bool:
        """Whether the function can be named_tensors as a polynomial or a table."""
        if not is_plain_basis(self.basis) or not is_plain_tensor(self.weight):
            return False
        return collapses(self.basis) or can_tabulate(self.basis)

    def extra_repr(self) -> str:
        return f"{self.channels}, share={self.share!r}"


class FrozenActivation(nn.Module):
    """What a `KANActivation` computes in evaluation, with its function as constants: a polynomial
    or a table, so that an exported graph has few operations.
    """

    def __init__(self, learned: KANActivation):
        super().__init__()
        self.base, self.basis = learned.base, learned.basis
        weight = at_least_float32(learned.channel_weight().detach())
        self.table, self.variable = None, None
        if collapses(self.basis):
            powers = power_coefficients(self.basis, weight.device)
            self.variable, constants = variable(self.basis), weight @ powers.to(weight.dtype)
        else:
            with torch.no_grad():
                self.table = tabulate(weight, self.basis, samples_of(self.basis))
            constants = self.table.pieces
        self.register_buffer("constants", constants)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        seen = self.basis.normalized(x)
        silu = type(self.base) is nn.SiLU and self.basis.is_pointwise
        if self.table is None:
            y = plain_polynomial(seen, self.constants, self.variable, silu)
        else:
            y = plain_lookup(seen, self.table._replace(pieces=self.constants), silu)
        return y if self.base is None or silu else y + self.base(x)


def with_frozen_activations(model: nn.Module) -> nn.Module:
    """A copy of a network for evaluation whose learned activations are constants; the network
    itself where it has none.
    """
    if not any(isinstance(module, KANActivation) for module in model.modules()):
        return model
    if isinstance(model, KANActivation):
        return FrozenActivation(copy.deepcopy(model)) if model.can_freeze() else model
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, KANActivation) and part.can_freeze():
                setattr(module, name, FrozenActivation(part))
    return model


def initial_activation(activation: nn.Module) -> nn.Module:
    """The activation that a learned one starts as, or is fitted to; any other itself."""
    if not isinstance(activation, KANActivation):
        return activation
    return nn.SiLU() if activation.base is None else activation.base


def check_share(share: str | int) -> str | int:
    """ "edge", "channel", "layer" or a number of functions; ValueError for anything else."""
    number = isinstance(share, int) and not isinstance(share, bool) and share >= 1
    if number or share in ("edge", "channel", "layer"):
        return share
    raise ValueError(
        "share must be 'edge', 'channel', 'layer' or a number of functions (at least 1), got"
        f" {share!r}"
    )


def default_options(basis: str) -> dict[str, object]:
    """Options of a basis that fit the output of a norm."""
    if basis in ("legendre", "chebyshev", "gram", "jacobi"):
        return {"domain": BOUNDED_DOMAIN}
    return OPTIONS.get(basis, {})
