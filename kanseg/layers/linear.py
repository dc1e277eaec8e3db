"""KANLinear, the KAN counterpart of `torch.nn.Linear`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from kanseg.bases import create_basis
from kanseg.bases.base import check_floating
from kanseg.layers.activation import KANActivation, check_share, initial_activation
from kanseg.layers.fused.functional import activation_convolution, basis_convolution
from kanseg.layers.fused.plain import reads_its_weight
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
    reset,
)
from kanseg.layers.regularization import FeatureNoise
from kanseg.layers.surgery import check_can_reset


class KANLinear(nn.Module, Adaptive, HasCurves):  # FSDP2 needs nn.Module first
    """A linear layer whose weights are learned univariate functions, y_o = sum_i phi_oi(x_i):
    (..., in_features) -> (..., out_features).

    `y = basis_linear(basis(x)) + base_linear(base_activation(x))`, or with shared functions
    `y = base_linear(phi(x))` with a `KANActivation` phi (Liu et al. 2024, arXiv:2404.19756;
    computed as one matrix product over the expanded features, as in efficient-kan).

    Args:
        in_features, out_features: as in `torch.nn.Linear`.
        basis: a name of `kanseg.list_bases()`; "none" is a plain `Linear`.
        share, function_init, base_activation, dropout, noise, dropout_at: as in `KANConv2d`.
        bias: add a learned vector, initially zero. Functions can represent constants themselves;
            plain linear layers (basis "none") need a bias.
        basis_options: options of the basis.

    Raises:
        ValueError: unknown names, options that the basis does not have, an input with another last
            axis, or an integer input.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        basis: str = "bspline",
        share: str | int = "edge",
        function_init: str = "normal",
        base_activation: str | Callable[[], nn.Module] | None = "silu",
        dropout: float = 0.0,
        noise: float = 0.0,
        dropout_at: str = "input",
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **basis_options: object,
    ):
        super().__init__()
        if basis == "none" and basis_options:
            raise ValueError(
                "basis 'none' is the plain linear map and has no options, got"
                f" {', '.join(basis_options)}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.share = check_share(share)
        self.function_init = check_function_init(function_init, base_activation is not None)
        self.feature_noise = FeatureNoise(dropout, noise, dropout_at, 0)
        self.basis = self.basis_linear = None
        self.base_activation, self.base_linear = nn.Identity(), None
        if basis == "none":
            base_activation = None
        elif share != "edge":
            base_activation = partial(
                KANActivation,
                in_features,
                basis=basis,
                share=share,
                base=base_activation,
                feature_noise=self.feature_noise,
                dtype=dtype,
                **basis_options,
            )
            basis = "none"
        if basis == "none" or base_activation is not None:
            self.base_activation = activation_module(base_activation, inplace=False)
            self.base_linear = nn.Linear(in_features, out_features, bias=False)
        if basis != "none":
            with exact_constants(dtype):
                self.basis = create_basis(basis, in_features, **basis_options)
            expanded = in_features * self.basis.num_functions
            self.basis_linear = nn.Linear(expanded, out_features, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self._draw_weights()
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Reset the layer to its initial state, as `KANConv2d.reset_parameters` does."""
        check_can_reset(self)
        for part in self.children():
            reset(part)
        self._draw_weights()

    def _draw_weights(self) -> None:
        """Draw the weights so that the output has variance 1 for N(0, 1) input."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        init_branches(
            self.basis,
            self.basis_linear,
            initial_activation(self.base_activation),
            self.base_linear,
            function_init=self.function_init,
        )

    @property
    def functions_weight(self) -> nn.Parameter | None:
        """Coefficients of the functions per edge (O, I * K).

        None with basis "none" and with shared functions, which are in a `KANActivation`.
        """
        return None if self.basis is None else self.basis_linear.weight

    def _set_functions_weight(self, weight: nn.Parameter) -> None:
        self.basis_linear.weight = weight
        self.basis_linear.in_features = weight.shape[1]

    def basis_input(self, x: Tensor) -> Tensor:
        """The input of the basis: (..., in_features) -> (B, in_features)."""
        return x.reshape(-1, self.in_features)

    def function_weights(self) -> FunctionWeights:
        """The coefficients of all functions."""
        return edge_weights(self.basis_linear, self.base_linear, self.basis.num_functions)

    def evaluate(self, inputs: FunctionInputs) -> tuple[Tensor | None, Tensor]:
        """The base activation (C, n) and the basis functions (C, K, n)."""
        base = None if self.base_linear is None else self.base_activation(inputs.x.T).T
        return base, self.basis.values_at(inputs.u)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"KANLinear expects {self.in_features} features in the last axis, got a tensor of"
                f" shape {tuple(x.shape)}"
            )
        check_floating(x)
        flat = self.feature_noise.at("input", x.reshape(-1, self.in_features))
        branches = []
        if self.basis is not None:
            inner = self.feature_noise.at("branch", flat)
            dropout_mask = self.feature_noise.dropout_mask(inner, self.basis.num_functions)
            branches.append(basis_convolution(inner, self.basis, self.basis_linear, dropout_mask))
        if self.base_linear is not None:
            branches.append(activation_convolution(flat, self.base_activation, self.base_linear))
        y = sum(branches[1:], branches[0])
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.reshape(*x.shape[:-1], self.out_features)

    def edge_norms(self, x: Tensor | None = None) -> Tensor:
        """Magnitude of the learned function phi_oi of every edge, (out_features, in_features).

        Args:
            x: inputs (..., in_features), over which |phi_oi(x_i)| is averaged, including the base
                branch (the L1 norm of the paper and pykan, at a cost of B * O * I). None for the
                mean absolute coefficient of the functions, which needs no data (efficient-kan).
        """
        if self.basis is None or self.share != "edge":
            raise ValueError(
                "edge norms need a separate function on every edge: a basis and share='edge'"
            )
        for name in ("basis_linear", "base_linear"):
            part = getattr(self, name)
            if part is not None and not reads_its_weight(part):
                raise ValueError(
                    f"edge norms are computed from the weights, but {name} is a"
                    f" {type(part).__name__} that does more than multiply by its weight"
                )
        weight = self.basis_linear.weight.unflatten(1, (self.in_features, -1))
        if x is None:
            return weight.abs().mean(dim=2)
        flat = x.reshape(-1, self.in_features)
        phi = torch.einsum("oik,bik->boi", weight, self.basis(flat))
        if self.base_linear is not None:
            phi = phi + self.base_linear.weight * self.base_activation(flat).unsqueeze(1)
        return phi.abs().mean(dim=0)

    def regularization(
        self, x: Tensor | None = None, *, l1: float = 1.0, entropy: float = 1.0
    ) -> Tensor:
        """l1 * (sum of the edge norms) + entropy * (entropy of the normalized edge norms), to be
        added to the loss (Liu et al. 2024, eqs. 2.17 to 2.20).

        Args:
            x: inputs for the norms, or None (see `edge_norms`).
        """
        norms = self.edge_norms(x)
        shares = norms / norms.sum().clamp_min(1e-12)
        return l1 * norms.sum() - entropy * (shares * shares.clamp_min(1e-12).log()).sum()
