"""Grids that adapt: to the data, to a finer one, to a higher degree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.bases.bspline import BSpline
from kanseg.layers.regularisation import kan_layers
from kanseg.layers.surgery import check_changeable


class Adaptive(ABC):
    """What KANConv and KANLinear do with their functions after they were built: change the
    functions and refit the weights.

    All methods but `off_grid_share` replace parameters: make the optimiser anew afterwards.
    """

    @abstractmethod
    def functions_input(self, x: Tensor) -> Tensor:
        """What the basis sees of the layer's input before its domain map: (B, C, *S)."""

    @abstractmethod
    def _set_functions_weight(self, weight: nn.Parameter) -> None:
        """Put new coefficients of the functions in the place of the old ones."""

    @torch.no_grad()
    def update_grid(self, x: Tensor) -> None:
        """Move the grid to the quantiles of what the functions see of x, and refit the weights by
        least squares on it.

        Args:
            x: a batch of inputs of the layer; the more pixels, the better the quantiles (4096 a
                channel are used).

        Raises:
            ValueError: the basis has no grid, or x is empty or not finite.
        """
        samples = self._samples(x)
        if samples.numel() == 0 or not torch.isfinite(samples).all():
            raise ValueError(
                "a grid can follow finite inputs only, got"
                f" {'none' if samples.numel() == 0 else 'NaN or infinity'} in a tensor of"
                f" {tuple(x.shape)}"
            )
        if self.share == "layer":
            samples = samples.reshape(1, -1).expand(len(samples), -1)
        self._refit(self._adaptive_basis().update_grid(evenly_chosen(samples, 4096)))

    @torch.no_grad()
    def refine(self, grid_size: int, *, keep_tails: bool = True) -> None:
        """Cut the intervals of a B-spline grid; the layer computes the same function as before.

        Args:
            grid_size: intervals on the range of the present grid, a multiple of the present number.
            keep_tails: widen the grid by the tails of the outermost splines, so that the function
                stays the same everywhere; `basis.grid_size` then counts the intervals of the
                widened range (`basis.grid_limits()`), and a layer that is to load the weights is
                built with these two. Without tails it stays the same on the grid only, with fewer
                functions.

        Raises:
            ValueError: the basis has no nested grids, or a number that is no multiple.
        """
        self._refit(self._adaptive_basis().refine(grid_size, keep_tails=keep_tails))

    @torch.no_grad()
    def raise_degree(self, degree: int) -> None:
        """Allow a higher degree; the layer computes the same function as before.

        Raises:
            ValueError: the basis has no degree, or a lower one was asked for.
        """
        self._refit(self._adaptive_basis().raise_degree(degree))

    @torch.no_grad()
    def off_grid_share(self, x: Tensor) -> float:
        """Share of what the functions see of x that lies outside the grid.

        Raises:
            ValueError: the basis has no grid.
        """
        samples = self._samples(x)
        lo, hi = (limit.unsqueeze(1) for limit in self.basis.grid_limits())
        return float(((samples < lo) | (samples > hi)).double().mean())

    def _samples(self, x: Tensor) -> Tensor:
        """(C, n) of what the functions see, mapped."""
        if self.basis is None:
            raise ValueError("a layer with basis 'none' has no functions and no grid")
        return self.basis.mapped(self.functions_input(x)).transpose(0, 1).flatten(1)

    def _adaptive_basis(self) -> Basis:
        if self.basis is None:
            raise ValueError("a layer with basis 'none' has no functions and no grid")
        check_changeable(self)
        return self.basis

    def _refit(self, change: Tensor) -> None:
        """New weights for functions of which the old ones are combinations: old_i = sum_j change[c,
        i, j] new_j; change (C, K, K').
        """
        change = change.to(device=self.functions_weight.device)
        old = self.functions_weight.double()
        old_functions = change.shape[1]
        if self.share != "edge":
            new = torch.einsum(
                "cK,cKL->cL",
                old,
                (
                    change.expand(len(self.functions_weight), -1, -1)
                    if self.share == "channel"
                    else change[:1]
                ),
            )
        else:
            groups = getattr(self, "groups", 1)
            change = change.expand(self.basis.channels, -1, -1).unflatten(0, (groups, -1))
            taps = old[0, 0].numel()
            split = old.reshape(groups, len(old) // groups, -1, old_functions, taps)
            new = torch.einsum("gocKt,gcKL->gocLt", split, change).reshape(
                len(old), -1, *old.shape[2:]
            )
        weight = self.functions_weight
        self._set_functions_weight(
            nn.Parameter(new.to(weight.dtype), requires_grad=weight.requires_grad)
        )


def evenly_chosen(samples: Tensor, count: int) -> Tensor:
    """At most about `count` columns of (C, n), evenly spaced."""
    return samples[:, :: max(1, samples.shape[1] // count)]


@torch.no_grad()
def update_grids(model: nn.Module, x: Tensor) -> None:
    """Move the grids of all layers with grids to their inputs for x, one layer after the other,
    each seeing the layers before it updated.

    A layer that is used more than once follows the inputs of its first use. The model runs in
    evaluation mode.
    """
    done: set[nn.Module] = set()

    def update(layer: Adaptive, seen: Tensor) -> None:
        if layer not in done:
            done.add(layer)
            layer.update_grid(seen)

    _visit(model, x, update)


@torch.no_grad()
def refine_grids(model: nn.Module, grid_size: int, *, keep_tails: bool = True) -> None:
    """Refine all B-spline layers of a model; those whose number of intervals does not divide
    `grid_size` are an error before any is changed.
    """
    layers = [layer for layer in _layers_with_grids(model) if isinstance(layer.basis, BSpline)]
    for layer in layers:
        layer.basis.check_finer(grid_size)
    for layer in layers:
        layer.refine(grid_size, keep_tails=keep_tails)


@torch.no_grad()
def off_grid_shares(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Name of each layer with a grid -> share of its inputs, for x, outside the grid."""
    shares: dict[str, float] = {}
    names = {layer: name for name, layer in model.named_modules()}
    _visit(
        model, x, lambda layer, seen: shares.__setitem__(names[layer], layer.off_grid_share(seen))
    )
    return shares


def _visit(model: nn.Module, x: Tensor, look: Callable[[Adaptive, Tensor], None]) -> None:
    """Run the model on x and show every layer with a grid its input before it computes."""

    def before(layer: Adaptive, arguments: tuple, named: dict[str, object]) -> None:
        look(layer, arguments[0] if arguments else named["x"])

    training = {module: module.training for module in model.modules()}
    hooks = [
        layer.register_forward_pre_hook(before, with_kwargs=True)
        for layer in _layers_with_grids(model)
    ]
    try:
        model.eval()
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode


def _layers_with_grids(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in kan_layers(model) if layer.basis.has_grid]
