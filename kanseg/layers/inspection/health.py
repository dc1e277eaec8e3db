"""The health of KAN layers on data: inputs off the grid, flat domain maps, dead functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.bases.domains import POINTWISE_DOMAINS
from kanseg.layers.grids import SAMPLES, call_before_layers, evenly_chosen, unwrapped
from kanseg.layers.inspection.curves import FunctionInputs, HasCurves
from kanseg.layers.regularization import kan_layers
from kanseg.utils.language import translate

FLAT = 0.05  # of the steepest slope: where a domain map is below, it is called flat
DEAD = 1e-6  # of the mean variance of the functions of a layer
LINEAR = 0.99  # R^2 of a line
# Shares of the inputs from which a layer needs advice.
OFF_GRID_LIMIT = 0.1
SATURATED_LIMIT = 0.5
LINEAR_LIMIT = 0.9  # of the functions


@dataclass(frozen=True)
class LayerHealth:
    """The health of the functions of one layer on data.

    Args:
        layer: its name in `network.named_modules()`.
        num_functions: functions of the layer: R if they are shared, O * I * kernel if not.
        off_grid: share of the inputs of the basis outside its grid; None without a grid.
        saturated: share of the inputs where the slope of the domain map is below 5 % of its
            steepest; None for maps that are flat nowhere.
        dead: functions that do not vary on the data: their variance is below 1e-6 of the mean over
            the layer.
        linear: functions, not dead, of which a line explains more than 99 % of the variance.
        domain: name of the domain map.
    """

    layer: str
    num_functions: int
    off_grid: float | None
    saturated: float | None
    dead: int
    linear: int
    domain: str

    @property
    def advice(self) -> list[str]:
        """What to do about the layer, one sentence each; empty if there is nothing."""
        advice = []
        if self.off_grid is not None and self.off_grid > OFF_GRID_LIMIT:
            advice.append(
                translate(
                    "{share} of the inputs lie off the grid, where the functions are not trained:"
                    " move the grid to the data (update_grid) or make grid_range wider.",
                    share=f"{self.off_grid:.0%}",
                )
            )
        if self.saturated is not None and self.saturated > SATURATED_LIMIT:
            advice.append(
                translate(
                    "{share} of the inputs lie in the flat part of the domain map {domain}, where"
                    " the functions hardly differ: use another domain, or a norm before the layer.",
                    share=f"{self.saturated:.0%}",
                    domain=self.domain,
                )
            )
        if self.dead:
            advice.append(
                translate(
                    "{count} of {total} functions do not vary on these images: prune them.",
                    count=self.dead,
                    total=self.num_functions,
                )
            )
        if self.linear > LINEAR_LIMIT * self.num_functions:
            advice.append(
                translate(
                    "{count} of {total} functions are nearly lines: a plain layer may do as well.",
                    count=self.linear,
                    total=self.num_functions,
                )
            )
        return advice


class FunctionMoments:
    """Variances of the functions of a layer over data, and how well lines fit them.

    Every function is a weighted sum of values at its input, whose first and second moments are
    collected per channel: the functions of all edges cost no evaluation of their own. Functions
    that channels share have the moments over all of these channels.

    Args:
        layer: a KANConv or KANLinear with functions per edge, or a KANActivation.
    """

    def __init__(self, layer: HasCurves):
        self.layer = layer
        self.weights = layer.function_weights()
        device = self.weights.functions.device
        self.function_of_channel = layer.function_of_channel().to(device)
        functions = int(self.function_of_channel[-1]) + 1
        size = 1 + self.weights.functions.shape[4] + int(self.weights.base is not None)
        kind = {"dtype": torch.float64, "device": device}
        self.count = torch.zeros(functions, **kind)
        self.sums = torch.zeros(functions, size, **kind)
        self.products = torch.zeros(functions, size, size, **kind)

    def update(self, inputs: FunctionInputs) -> None:
        """Add n inputs of every channel."""
        base, functions = self.layer.evaluate(inputs)
        values = [curve_inputs(self.layer, inputs).unsqueeze(1)]
        if self.weights.base is not None:
            values.append(base.unsqueeze(1))
        values = torch.cat([*values, functions], dim=1).double()  # (C, size, n)
        counts = torch.full_like(values[:, 0, 0], values.shape[2])
        self.count.index_add_(0, self.function_of_channel, counts)
        self.sums.index_add_(0, self.function_of_channel, values.sum(2))
        self.products.index_add_(0, self.function_of_channel, values @ values.mT)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """The variance of each function, and R^2 of its fit by a line in x (NaN if nothing
        varies), (num_functions,) each.
        """
        means = (self.sums / self.count[:, None]).unsqueeze(2)
        covariance = self.products / self.count[:, None, None] - means * means.mT
        coefficients = self.weights.functions
        if self.weights.base is not None:
            coefficients = torch.cat([self.weights.base.unsqueeze(4), coefficients], dim=4)
        coefficients = coefficients.double()
        covariance = covariance.unflatten(0, (len(coefficients), -1))  # (G, I, size, size)
        of_values = covariance[:, :, 1:, 1:]
        variance = torch.einsum("goitf,gifh,goith->goit", coefficients, of_values, coefficients)
        variance = variance.clamp_min(0)
        with_x = torch.einsum("goitf,gif->goit", coefficients, covariance[:, :, 1:, 0])
        of_x = covariance[:, :, 0, 0].clamp_min(0)[:, None, :, None]
        return variance.flatten(), (with_x.square() / (variance * of_x)).flatten()

    def input_mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation of the inputs of all functions."""
        total = self.count.sum()
        mean = self.sums[:, 0].sum() / total
        variance = self.products[:, 0, 0].sum() / total - mean.square()
        return float(mean), float(variance.clamp_min(0).sqrt())


class HealthMeter:
    """Collects the health of one layer over batches."""

    def __init__(self, layer: HasCurves):
        self.basis: Basis = layer.basis
        self.moments = FunctionMoments(layer)
        self.values = self.off_grid = self.saturated = 0

    def update(self, inputs: FunctionInputs) -> None:
        """Add n inputs of every channel."""
        self.moments.update(inputs)
        u = inputs.u
        self.values += u.numel()
        if self.basis.has_grid:
            lo, hi = (limit.unsqueeze(1) for limit in self.basis.grid_limits())
            self.off_grid += int(((u < lo) | (u > hi)).sum())
        flat = is_flat(self.basis, u)
        if flat is not None:
            self.saturated += int(flat.sum())

    def result(self, name: str) -> LayerHealth:
        """The health of the layer of this name."""
        variance, r2 = self.moments.statistics()
        dead = variance <= DEAD * variance.mean()
        linear = ~dead & (r2 > LINEAR)
        has_flat_part = is_flat(self.basis, torch.zeros(1, 1)) is not None
        return LayerHealth(
            name,
            len(variance),
            self.off_grid / self.values if self.basis.has_grid else None,
            self.saturated / self.values if has_flat_part else None,
            int(dead.sum()),
            int(linear.sum()),
            self.basis.domain,
        )


@torch.no_grad()
def measure_health(network: nn.Module, batches: Iterable[Tensor]) -> list[LayerHealth]:
    """The health of every layer with functions that a network runs on these batches.

    4096 values per channel and batch are used, drawn evenly and always the same. The network is in
    evaluation mode meanwhile.

    Args:
        network: any module.
        batches: images (B, C, H, W) as the network gets them.
    """
    network = unwrapped(network)
    layers = named_kan_layers(network)
    meters: dict[nn.Module, HealthMeter] = {}

    def update(layer: HasCurves, layer_input: Tensor) -> None:
        if layer not in meters:
            meters[layer] = HealthMeter(layer)
        meters[layer].update(sampled_inputs(layer, layer_input))

    for x in batches:
        call_before_layers(network, x, layers.values(), update)
    return [meters[layer].result(name) for name, layer in layers.items() if layer in meters]


def named_kan_layers(network: nn.Module) -> dict[str, HasCurves]:
    """Name -> layer with functions, in the order of the modules."""
    layers = set(kan_layers(network))
    return {name: module for name, module in network.named_modules() if module in layers}


def sampled_inputs(layer: HasCurves, layer_input: Tensor) -> FunctionInputs:
    """The inputs of the functions for an input of their layer: at most 4096 of every channel, drawn
    evenly and always the same.
    """
    x = layer.basis_input(layer_input)
    u = layer.basis.mapped(x)
    return FunctionInputs(_per_channel(x), _per_channel(u))


def _per_channel(x: Tensor) -> Tensor:
    return evenly_chosen(x.transpose(0, 1).flatten(1), SAMPLES)


def curve_inputs(layer: HasCurves, inputs: FunctionInputs) -> Tensor:
    """The inputs (C, n) of the curves: x, or u if the domain map normalizes samples."""
    if layer.basis.is_pointwise:
        return inputs.x
    return inputs.u


def is_flat(basis: Basis, u: Tensor) -> Tensor | None:
    """Where the domain map is flat, for mapped inputs u; None for maps that are flat nowhere."""
    domain = POINTWISE_DOMAINS.get(basis.domain)
    if domain is None or domain.derivative is None:
        return None
    steepest = domain.derivative(domain.value(torch.zeros_like(u[:1, :1])))
    return domain.derivative(u) < FLAT * steepest
