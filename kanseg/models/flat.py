"""Flat Kolmogorov-Arnold networks: sequences of KANLinear layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.bases.bspline import BSpline
from kanseg.layers.grids import update_grids
from kanseg.layers.linear import KANLinear
from kanseg.layers.parts import activation_module
from kanseg.layers.regularization import kan_layers
from kanseg.models.classification import Linear, is_positive_integer


class KAN(nn.Module):
    """A sequence of KANLinear layers (Liu et al. 2024, arXiv:2404.19756): (B, width[0]), or (B,
    ...) with as many entries, -> (B, width[-1]).

    With basis "none" it is the multi-layer perceptron of the same widths, as a baseline: linear
    layers with bias, and `activation` after each but the last.

    Args:
        width: number of nodes of each layer, from the input to the output.
        basis, options: as in `KANLinear`.
        activation: name, callable or None; used after layers without functions only.
        linear: (in_features, out_features) -> layer, instead of KANLinear with basis and options.

    Raises:
        ValueError: fewer than two widths; whatever `KANLinear` raises.
    """

    def __init__(
        self,
        width: Sequence[int],
        *,
        basis: str = "bspline",
        activation: str | None = "silu",
        linear: Linear | None = None,
        **options: object,
    ):
        super().__init__()
        if len(width) < 2 or not all(is_positive_integer(n) for n in width):
            raise ValueError(
                "width must hold two or more positive numbers of nodes, such as [784, 5, 5, 10],"
                f" got {list(width)}"
            )
        if linear is None:
            linear = linear_layers(basis, **options)
        self.width = tuple(width)
        self.layers = nn.Sequential(
            *(linear(a, b) for a, b in zip(width[:-1], width[1:], strict=True))
        )
        self.between = nn.ModuleList(
            activation_where_plain(layer, activation) for layer in self.layers[:-1]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[-1]

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of each layer, after its activation, ending with the logits: [(B, width[1]),
        ..., (B, width[-1])].
        """
        x = self._flatten(x)
        outputs = []
        for layer, activation in zip(self.layers, [*self.between, nn.Identity()], strict=True):
            x = activation(layer(x))
            outputs.append(x)
        return outputs

    def _flatten(self, x: Tensor) -> Tensor:
        if x.dim() > 2:
            return x.flatten(1)
        return x

    def _layers_of_functions(self) -> list[nn.Module]:
        layers = list(kan_layers(self))
        if not layers:
            raise ValueError("a network with basis 'none' has no functions and no grid")
        return layers

    def regularization(
        self, x: Tensor | None = None, *, l1: float = 1.0, entropy: float = 1.0
    ) -> Tensor:
        """Sum of `KANLinear.regularization` over the layers, for the inputs x of the network."""
        total = next(self.parameters()).new_zeros(())
        if x is not None:
            x = self._flatten(x)
        for layer in self.layers:
            total = total + layer.regularization(x, l1=l1, entropy=entropy)
            if x is not None:
                x = layer(x)
        return total

    def update_grid(
        self, x: Tensor, *, optimizer: torch.optim.Optimizer | None = None, **options: Any
    ) -> None:
        """Move the grid of each layer to its inputs for x; arguments as in
        `kanseg.layers.update_grids`.
        """
        for layer in self._layers_of_functions():
            layer.check_has_grid()
        update_grids(self, x, optimizer=optimizer, **options)

    def refine(
        self,
        grid_size: int,
        *,
        keep_tails: bool = True,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """Refine the B-spline grid of each layer; the network computes the same function as before.

        `optimizer` as in `kanseg.layers.update_grids`.
        """
        layers = self._layers_of_functions()
        for layer in layers:
            if isinstance(layer.basis, BSpline):
                layer.basis.check_finer(grid_size)
        for layer in layers:
            layer.refine(grid_size, keep_tails=keep_tails, optimizer=optimizer)


def kan(width: Sequence[int], *, basis: str = "bspline", **options: object) -> KAN:
    """Create a `KAN`: `kan([784, 5, 5, 10], basis="bspline", grid_size=5)`."""
    return KAN(width, basis=basis, **options)


def linear_layers(basis: str, **options: object) -> Linear:
    """KANLinear with the given basis and options; with a bias by default for basis "none"."""
    return partial(KANLinear, basis=basis, **({"bias": basis == "none"} | options))


def activation_where_plain(layer: nn.Module, activation: str | None) -> nn.Module:
    """The activation after a layer without functions; Identity after a layer with functions."""
    if layer.functions_weight is not None:
        return nn.Identity()
    return activation_module(activation, inplace=False)
