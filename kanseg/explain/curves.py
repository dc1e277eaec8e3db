"""Every learned function of a network, with its inputs and its contribution on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanseg.layers.grids import call_before_layers, unwrapped
from kanseg.layers.inspection.curves import (
    POINTS,
    Curves,
    HasCurves,
    channel_of_function,
    first_channels,
)
from kanseg.layers.inspection.health import (
    FunctionMoments,
    curve_inputs,
    named_kan_layers,
    sampled_inputs,
)
from kanseg.models.operations import preserve_state
from kanseg.utils.language import translate

BINS = 64
MAX_EDGES = 24  # functions per edge that are returned, the strongest
RANGE = 5.0  # standard deviations of the inputs of a layer that its curves cover


@dataclass(frozen=True)
class LayerCurves:
    """The functions of a layer on data; all tensors are on the CPU.

    Args:
        layer: its name in `network.named_modules()`.
        curves: on a range that covers the seen inputs, as far as they are within five standard
            deviations of the layer's mean. A row per function, in the order of the layer if they
            are shared; of functions per edge the strongest, the strongest first.
        rows: what each function is: "channel 3", "channels 0-3", "layer", or the edge
            "in 2 -> out 5 [1, 1]" with its position in the kernel.
        counts: (R, bins) histogram of the inputs of each function; the first and the last bin also
            count the inputs beyond them.
        edges: (bins + 1,) of the bins.
        contribution: (R,) variance of phi(x) over the data.
        num_functions: functions of the layer, of which `rows` are the strongest.
        normalized: whether the domain map normalizes samples; x is then the normalized input.
    """

    layer: str
    curves: Curves
    rows: list[str]
    counts: Tensor
    edges: Tensor
    contribution: Tensor
    num_functions: int
    normalized: bool


def function_curves(
    network: nn.Module, batches: Iterable[Tensor], *, bins: int = BINS, max_edges: int = MAX_EDGES
) -> list[LayerCurves]:
    """The curves of all layers with functions, with histograms and contributions on data.

    The network runs twice over the images: for the range and the variance of every function, then
    for the histograms. It runs in evaluation mode, and is afterwards as it was. A layer that no
    image reaches is left out.

    Args:
        network: any module with KAN layers.
        batches: images (B, C, H, W) as the network gets them. 4096 values per channel and batch
            are used, drawn evenly and always the same.
        bins: of the histograms.
        max_edges: number of functions of a layer with functions per edge.
    """
    batches = list(batches)
    network = unwrapped(network)
    layers = named_kan_layers(network)
    moments: dict[nn.Module, FunctionMoments] = {}
    ranges: dict[nn.Module, _Range] = {}

    def add_moments(layer: HasCurves, layer_input: Tensor) -> None:
        if layer not in moments:
            moments[layer], ranges[layer] = FunctionMoments(layer), _Range()
        inputs = sampled_inputs(layer, layer_input)
        moments[layer].update(inputs)
        ranges[layer].update(curve_inputs(layer, inputs))

    def count(layer: HasCurves, layer_input: Tensor) -> None:
        histograms[layer].update(curve_inputs(layer, sampled_inputs(layer, layer_input)))

    with preserve_state(network, training=False), torch.no_grad():
        for x in batches:
            call_before_layers(network, x, layers.values(), add_moments)
        histograms = {}
        for layer in moments:
            limits = ranges[layer].limits(*moments[layer].input_mean_and_std())
            histograms[layer] = _Histogram(layer.basis.channels, limits, bins)
        for x in batches:
            call_before_layers(network, x, layers.values(), count)
        return [
            _layer_curves(name, moments[layer], histograms[layer], max_edges)
            for name, layer in layers.items()
            if layer in moments
        ]


class _Range:
    """The smallest and the largest input of a layer."""

    def __init__(self):
        self.lo, self.hi = float("inf"), float("-inf")

    def update(self, x: Tensor) -> None:
        self.lo, self.hi = min(self.lo, float(x.min())), max(self.hi, float(x.max()))

    def limits(self, mean: float, std: float) -> tuple[float, float]:
        """The range of the inputs, without those far from the mean."""
        lo, hi = max(self.lo, mean - RANGE * std), min(self.hi, mean + RANGE * std)
        if lo < hi:
            return lo, hi
        return lo - 1, hi + 1  # constant inputs


class _Histogram:
    """Counts (C, bins) of the inputs of every channel."""

    def __init__(self, channels: int, limits: tuple[float, float], bins: int):
        self.edges = torch.linspace(*limits, bins + 1)
        self.counts = torch.zeros(channels, bins, dtype=torch.int64)

    def update(self, x: Tensor) -> None:
        """Add inputs (C, n)."""
        x = x.float().cpu().contiguous()
        index = (torch.bucketize(x, self.edges) - 1).clamp(0, self.counts.shape[1] - 1)
        self.counts.scatter_add_(1, index, torch.ones_like(index))


def _layer_curves(
    name: str, moments: FunctionMoments, histogram: _Histogram, max_edges: int
) -> LayerCurves:
    layer, weights = moments.layer, moments.weights
    variance = moments.statistics()[0].cpu()
    is_per_edge = len(weights.shape) > 1
    if is_per_edge:
        chosen = variance.argsort(descending=True)[:max_edges]
        counts = histogram.counts[channel_of_function(weights)[chosen]]
        names = edge_names(chosen.tolist(), weights.shape, groups=len(weights.functions))
    else:
        chosen = torch.arange(len(variance))
        function_of_channel = moments.function_of_channel.cpu()
        counts = histogram.counts.new_zeros(len(variance), histogram.counts.shape[1])
        counts.index_add_(0, function_of_channel, histogram.counts)
        names = shared_names(function_of_channel)
    x = torch.linspace(float(histogram.edges[0]), float(histogram.edges[-1]), POINTS)
    curves = layer.curves(x, rows=chosen)
    return LayerCurves(
        name,
        Curves(*(None if part is None else part.cpu() for part in curves)),
        names,
        counts,
        histogram.edges,
        variance[chosen],
        num_functions=len(variance),
        normalized=not layer.basis.is_pointwise,
    )


def edge_names(indices: list[int], shape: tuple[int, ...], groups: int) -> list[str]:
    """Names of functions per edge, by their flat indices in (O, I, *kernel)."""
    names = []
    for index in indices:
        output, channel, *position = (
            int(part) for part in torch.unravel_index(torch.tensor(index), shape)
        )
        group = output // (shape[0] // groups)
        name = f"in {group * shape[1] + channel} -> out {output}"
        if position:
            name += f" {position}"
        names.append(name)
    return names


def shared_names(function_of_channel: Tensor) -> list[str]:
    """Names of shared functions, for the function of each channel (C,)."""
    first = first_channels(function_of_channel).tolist()
    if len(first) == 1:
        return ["layer"]
    names = []
    for begin, end in zip(first, [*first[1:], len(function_of_channel)], strict=True):
        if end - begin == 1:
            names.append(f"channel {begin}")
        else:
            names.append(f"channels {begin}-{end - 1}")
    return names


def function_title(name: str, translate: Callable[..., str] = translate) -> str:
    """The name of a function, one of `LayerCurves.rows`, in the language of the user.

    Args:
        translate: `figure_text` for figures.
    """
    kind, _, numbers = name.partition(" ")
    if kind == "channel":
        return translate("channel {number}", number=numbers)
    if kind == "channels":
        return translate("channels {numbers}", numbers=numbers)
    if kind == "layer":
        return translate("all channels")
    source, arrow, target = numbers.partition(" -> out ")
    return translate("in {channel} -> out {output}", channel=source, output=target)
