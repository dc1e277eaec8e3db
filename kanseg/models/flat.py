"""Flat Kolmogorov-Arnold networks: KANLinear after KANLinear."""

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
from kanseg.models.classification import Linear


class KAN(nn.Module):
    """Layers of learned univariate functions and sums, nothing between them (Liu et al. 2024,
    arXiv:2404.19756).

    (B, width[0]), or (B, ...) with as many entries, -> (B, width[-1]).

    With basis "none" it is the multi-layer perceptron of the same widths, the control arm: linear
    layers with bias, and since a stack of them alone would be one linear map, `activation` after
    each but the last.

    Args:
        width: number of nodes of each layer, from the input to the output.
        basis, options: as of `KANLinear`.
        activation: name, callable or None; stands between layers without functions only.
        linear: (in_features, out_features) -> layer, in the place of KANLinear with basis and
            options.

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
        if len(width) < 2 or any(
            isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in width
        ):
            raise ValueError(
                "width must hold two or more positive numbers of nodes, such as [784, 5, 5, 10],"
                f" got {list(width)}"
            )
        linear = linear_layers(basis, **options) if linear is None else linear
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
        """The output of each layer (after the activation, where there is one), the logits last:
        [(B, width[1]), ..., (B, width[-1])].
        """
        outputs = [self._vectors(x)]
        for layer, between in zip(self.layers, [*self.between, nn.Identity()], strict=True):
            outputs.append(between(layer(outputs[-1])))
        return outputs[1:]

    def _vectors(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.dim() > 2 else x

    def _layers_of_functions(self) -> list[nn.Module]:
        layers = list(kan_layers(self))
        if not layers:
            raise ValueError("a network with basis 'none' has no functions and no grid")
        return layers

    def regularization(
        self, x: Tensor | None = None, *, l1: float = 1.0, entropy: float = 1.0
    ) -> Tensor:
        """Sum of the layers' `KANLinear.regularization`; with x over each layer's own inputs."""
        total = next(self.parameters()).new_zeros(())
        x = None if x is None else self._vectors(x)
        for layer in self.layers:
            total = total + layer.regularization(x, l1=l1, entropy=entropy)
            x = None if x is None else layer(x)
        return total

    def update_grid(
        self, x: Tensor, *, optimizer: torch.optim.Optimizer | None = None, **options: Any
    ) -> None:
        """Move the grid of each layer to its inputs for x, the first layer first; arguments as of
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
        """Refine the grid of each layer (B-splines); the network computes the same function as
        before. `optimizer` is as of `kanseg.layers.update_grids`.
        """
        layers = self._layers_of_functions()
        for layer in layers:
            if isinstance(layer.basis, BSpline):
                layer.basis.check_finer(grid_size)
        for layer in layers:
            layer.refine(grid_size, keep_tails=keep_tails, optimizer=optimizer)


def kan(width: Sequence[int], *, basis: str = "bspline", **options: object) -> KAN:
    """A flat KAN: `kan([784, 5, 5, 10], basis="bspline", grid_size=5)`; see `KAN`."""
    return KAN(width, basis=basis, **options)


def linear_layers(basis: str, **options: object) -> Linear:
    """KANLinear with its basis and options filled in; without functions it has a bias, as the
    layers of a perceptron have.
    """
    return partial(KANLinear, basis=basis, **({"bias": basis == "none"} | options))


def activation_where_plain(layer: nn.Module, activation: str | None) -> nn.Module:
    """What stands behind a layer: nothing where it has functions, else the activation."""
    return (
        nn.Identity()
        if layer.functions_weight is not None
        else activation_module(activation, inplace=False)
    )
