"""The flat KAN layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanseg.bases import create_basis
from kanseg.layers.functional import activation_convolution, basis_convolution
from kanseg.layers.parts import activation_module, exact_constants, init_branches


class KANLinear(nn.Module):
    """A matrix of learned univariate functions: y_o = sum_i phi_oi(x_i), (..., in_features) -> (..., out_features).

    `y = basis_linear(basis(x)) + base_linear(base_activation(x))` (Liu et al. 2024, arXiv:2404.19756, in the form of one matrix
    product over the expanded features).

    Args:
        in_features, out_features: as of `torch.nn.Linear`.
        basis: a name of `kanseg.list_bases()`; "none" is a plain `Linear` without bias.
        base_activation: name, callable, or None for no base branch.
        basis_options: as the basis has them.

    Raises:
        ValueError: unknown names, options that the basis does not have, input with another last axis.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        basis: str = "bspline",
        base_activation: str | Callable[[], nn.Module] | None = "silu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **basis_options: object,
    ):
        super().__init__()
        if basis == "none" and basis_options:
            raise ValueError(f"basis 'none' is the plain linear map and has no options, got {', '.join(basis_options)}")
        self.in_features, self.out_features = in_features, out_features
        self.basis = self.basis_linear = None
        self.base_activation, self.base_linear = nn.Identity(), None
        if basis == "none" or base_activation is not None:
            self.base_activation = activation_module(None if basis == "none" else base_activation)
            self.base_linear = nn.Linear(in_features, out_features, bias=False)
        if basis != "none":
            with exact_constants(dtype):
                self.basis = create_basis(basis, in_features, **basis_options)
            self.basis_linear = nn.Linear(in_features * self.basis.num_functions, out_features, bias=False)
        self.reset_parameters()
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw the matrices so that the output has variance 1 for N(0, 1) input."""
        basis_weight = None if self.basis_linear is None else self.basis_linear.weight
        base_weight = None if self.base_linear is None else self.base_linear.weight
        init_branches(self.basis, basis_weight, self.base_activation, base_weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"KANLinear expects {self.in_features} features in the last axis, got a tensor of shape {tuple(x.shape)}")
        flat = x.reshape(-1, self.in_features)
        parts = []
        if self.basis is not None:
            parts.append(basis_convolution(flat, self.basis, self.basis_linear))
        if self.base_linear is not None:
            parts.append(activation_convolution(flat, self.base_activation, self.base_linear))
        return sum(parts[1:], parts[0]).reshape(*x.shape[:-1], self.out_features)
