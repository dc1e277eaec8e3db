"""The functions of a KAN layer as curves: x, phi(x), and the parts of base and basis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.bases.base import at_least_float32, without_autocast
from kanseg.layers.fused.plain import reads_its_weight

POINTS = 201
# Without a grid, curves are drawn up to where the domain map is within 0.5 % of its limits, or to
# four standard deviations of a normalized input.
REACH = {"tanh": 3.0, "half_tanh": 6.0, "sigmoid": 6.0}
NORMAL_REACH = 4.0


class Curves(NamedTuple):
    """The functions phi of a layer at n inputs.

    Args:
        x: (n,) inputs. With a domain map that normalizes samples (instance_norm, layer_norm), these
            are normalized inputs: phi(x) is what the layer computes for x in a sample whose mean is
            0 and whose variance is 1 already.
        total: phi(x), what the layer computes: (R, n) for R shared functions, (O, I, *kernel, n)
            for functions per edge, with I = input channels / groups.
        base: the part of the base branch, which broadcasts to `total`; None without one.
        functions: the part of the basis functions, of the shape of `total`.
    """

    x: Tensor
    total: Tensor
    base: Tensor | None
    functions: Tensor


class FunctionWeights(NamedTuple):
    """Coefficients of all functions of a layer: function (g, o, i, t) of group g, output o, input i
    and kernel position t is base * a(x_c) + sum_f functions_f * B_f(x_c), with c = g * I + i.

    Args:
        base: (G, O, I, T), or None without a base branch.
        functions: (G, O, I, T, F).
        shape: shape of the functions as the layer counts them, (R,) or (O, I, *kernel), with
            G * O * I * T functions in the same order.
    """

    base: Tensor | None
    functions: Tensor
    shape: tuple[int, ...]


class FunctionInputs(NamedTuple):
    """Inputs of the functions of a layer.

    Args:
        x: (C, n) inputs of the base activation and, before its domain map, of the basis.
        u: (C, n) mapped inputs of the basis.
    """

    x: Tensor
    u: Tensor


class HasCurves(ABC):
    """Mixin of KANConv, KANLinear and KANActivation: the learned functions as curves."""

    basis: Basis | None

    @abstractmethod
    def function_weights(self) -> FunctionWeights:
        """The coefficients of all functions."""

    @abstractmethod
    def evaluate(self, inputs: FunctionInputs) -> tuple[Tensor | None, Tensor]:
        """What the functions consist of: the base activation (C, n), or None, and F functions
        (C, F, n).
        """

    def function_of_channel(self) -> Tensor:
        """Index of the functions that channel c of the basis has, (C,): 0..C - 1 if no channels
        share functions.
        """
        return torch.arange(self.basis.channels)

    @torch.no_grad()
    def curves(self, x: Tensor | None = None, *, rows: Tensor | None = None) -> Curves:
        """The learned functions as curves; the layer computes these values before any norm and
        activation behind its convolution.

        A layer with shared functions returns those of its `KANActivation`. With a bottleneck the
        functions lie between the inner channels, and the base branch is no part of them. Dropout
        and noise are left out.

        The values are those of an evaluation without gradients. On a CPU, learned activations of
        wavelets are looked up in a table there, and with gradients computed exactly if there are
        few inputs: the two differ by up to 5e-5 of the largest value.

        Args:
            x: (n,) inputs. Default: 201 points over the grid, or over the range in which the domain
                map is not flat.
            rows: flat indices of functions, for a part of the O * I * kernel functions of a large
                layer; the curves are then (len(rows), n).

        Raises:
            ValueError: a layer without functions (basis "none"), or whose weights were replaced by
                a module that does more than multiply by them (quantization).

        Example:
            >>> x, total, base, functions = KANActivation(16).curves()
            >>> total.shape
            torch.Size([16, 201])
        """
        if self.basis is None:
            return _shared_functions(self).curves(x, rows=rows)
        weights = self.function_weights()
        if x is None:
            x = self._default_inputs()
        x = x.to(weights.functions)
        with without_autocast(x):
            return self._curves(x, weights, rows)

    def _curves(self, x: Tensor, weights: FunctionWeights, rows: Tensor | None) -> Curves:
        u = x
        if self.basis.is_pointwise:
            u = self.basis.mapped(x)
        shape = (self.basis.channels, len(x))
        base, functions = self.evaluate(FunctionInputs(x.expand(shape), u.expand(shape)))
        first = first_channels(self.function_of_channel()).to(x.device)
        functions = _combine(weights.functions, functions[first], weights.shape, rows)
        if weights.base is None:
            return Curves(x, functions, None, functions)
        factors = weights.base.unsqueeze(4)
        base = _combine(factors, base[first].unsqueeze(1), weights.shape, rows)
        return Curves(x, base + functions, base, functions)

    def _default_inputs(self) -> Tensor:
        reach = REACH.get(self.basis.domain, NORMAL_REACH)
        lo, hi = -reach, reach
        if self.basis.has_grid and self.basis.domain not in REACH:
            lower, upper = self.basis.grid_limits()
            lo, hi = float(lower.min()), float(upper.max())
        return torch.linspace(lo, hi, POINTS)


def first_channels(function_of_channel: Tensor) -> Tensor:
    """The first channel of each function, (R,), for the function of each channel (C,), sorted."""
    count = int(function_of_channel[-1]) + 1
    return torch.searchsorted(function_of_channel, torch.arange(count))


def channel_of_function(weights: FunctionWeights) -> Tensor:
    """Index g * I + i of the input of each function, (G * O * I * T,)."""
    groups, outputs, inputs, positions = weights.functions.shape[:4]
    channels = torch.arange(groups * inputs).reshape(groups, 1, inputs, 1)
    return channels.expand(-1, outputs, -1, positions).flatten()


def _combine(
    coefficients: Tensor, values: Tensor, shape: tuple[int, ...], rows: Tensor | None
) -> Tensor:
    """Sum coefficients (G, O, I, T, F) times values (G * I, F, n) over F: (*shape, n), or
    (len(rows), n) for some of the functions.
    """
    groups, outputs, inputs, positions, _ = coefficients.shape
    if rows is None:
        values = values.unflatten(0, (groups, inputs))
        return torch.einsum("goitf,gifn->goitn", coefficients, values).reshape(*shape, -1)
    group, _, channel, _ = torch.unravel_index(rows, (groups, outputs, inputs, positions))
    values = values[(group * inputs + channel).to(values.device)]
    return torch.einsum("rf,rfn->rn", coefficients.flatten(0, 3)[rows], values)


def edge_weights(
    functions: nn.Module, base: nn.Module | None, num_functions: int, groups: int = 1
) -> FunctionWeights:
    """The coefficients of the functions of a layer with one function per edge.

    Args:
        functions: the map of the K basis functions of each channel, with weight (O, I * K,
            *kernel).
        base: the map of the base branch, with weight (O, I, *kernel); None without one.
        num_functions: K.
        groups: of both maps.

    Raises:
        ValueError: a map that does more than multiply by its weight.
    """
    for part in (functions, base):
        if part is not None and not reads_its_weight(part):
            raise ValueError(
                "curves are computed from the weights, but a part of the layer is a"
                f" {type(part).__name__} that does more than multiply by its weight"
            )
    weight = at_least_float32(functions.weight.detach())
    kernel = weight.shape[2:]
    outputs = len(weight)
    weight = weight.reshape(groups, outputs // groups, -1, num_functions, kernel.numel())
    weight = weight.transpose(3, 4)
    inputs = weight.shape[2]
    factors = None
    if base is not None:
        factors = at_least_float32(base.weight.detach()).reshape(weight.shape[:4])
    return FunctionWeights(factors, weight, (outputs, inputs, *kernel))


def _shared_functions(layer: nn.Module) -> HasCurves:
    """The `KANActivation` of a layer with shared functions.

    Raises:
        ValueError: the layer has no functions.
    """
    for name in ("base_activation", "activation"):
        part = getattr(layer, name, None)
        if isinstance(part, HasCurves):
            return part
    raise ValueError("a layer with basis 'none' has no functions and no curves")
