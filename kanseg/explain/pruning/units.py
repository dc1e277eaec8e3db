"""What can be removed from a network: channels with all that depends on them, basis branches, and
functions.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kanseg.bases import Basis
from kanseg.layers.activation import KANActivation
from kanseg.layers.experts import expert_layers
from kanseg.layers.kan_conv import KANConv1d, KANConv2d, KANConv3d
from kanseg.layers.linear import KANLinear
from kanseg.models.pruned import is_depthwise
from kanseg.utils.errors import InputError
from kanseg.utils.installation import install

Side = tuple[str, str]  # name of a module or parameter, and its side as in `kanseg.models.pruned`


@dataclass(frozen=True)
class Unit:
    """Something that is removed as a whole.

    Args:
        kind: "channel", "branch" (the basis of a KANConv or KANLinear), or "function" (of a
            KANActivation).
        layer: the layer that computes it, a name in `network.named_modules()`.
        removes: (module, side) -> indices that are removed there; of a branch nothing.
    """

    kind: Literal["channel", "branch", "function"]
    layer: str
    removes: Mapping[Side, frozenset[int]]


def find_units(network: nn.Module, images: Tensor) -> dict[str, list[Unit]]:
    """List what can be removed from a network, by groups of channels that are removed alike.

    The dependencies between layers (skip connections, concatenations, norms, ...) are those that
    torch-pruning finds in the graph of autograd (Fang et al., "DepGraph", CVPR 2023).

    Args:
        network: any network; it is left as it was.
        images: a batch (B, C, H, W) for tracing.

    Returns:
        Name of a group -> its units. The channels of the output are in no group.

    Raises:
        InputError: torch-pruning is not installed, or a network of experts.
    """
    if any(expert_layers(network)):
        raise InputError(
            "networks of experts (model.options.experts) are not pruned: an image runs only those"
            " that it chooses, so that no image shows how all of them are connected"
        )
    groups = {}
    for name, units in _channel_groups(network, images):
        groups[name] = units
    for name, layer in network.named_modules():
        if isinstance(layer, KANActivation) and layer.base is not None:
            units = []
            for row in range(layer.num_activations):
                units.append(Unit("function", name, {(name, "functions"): frozenset([row])}))
            groups[f"{name}: functions"] = units
        elif has_two_branches(layer):
            groups[f"{name}: basis"] = [Unit("branch", name, {})]
    return groups


def has_two_branches(layer: nn.Module) -> bool:
    """True for a KANConv or KANLinear with functions per edge and a base branch beside them."""
    if isinstance(layer, KANLinear):
        return layer.basis is not None and layer.base_linear is not None
    is_conv = isinstance(layer, (KANConv1d, KANConv2d, KANConv3d))
    return is_conv and layer.basis is not None and layer.base_conv is not None


def _channel_groups(network: nn.Module, images: Tensor) -> Iterator[tuple[str, list[Unit]]]:
    """Groups of channels, each under the name of its first layer."""
    graph = _dependency_graph(network, images)
    names: dict[Any, str] = {module: name for name, module in network.named_modules()}
    names |= {parameter: name for name, parameter in network.named_parameters()}
    for group in graph.get_all_groups(root_module_types=(nn.modules.conv._ConvNd, nn.Linear)):
        name = names[group[0].dep.target.module]
        removes: dict[int, dict[Side, set[int]]] = defaultdict(lambda: defaultdict(set))
        blocks: dict[int, list[int]] = defaultdict(list)  # of each channel, its group in GroupNorms
        for item in group:
            node = item.dep.target
            if node.module not in names:
                continue
            side = _side(graph, node, item.dep.handler)
            for index, root in zip(item.idxs, item.root_idxs, strict=True):
                removes[root][names[node.module], side].add(index)
                if isinstance(node.module, nn.GroupNorm):
                    size = node.module.num_channels // node.module.num_groups
                    blocks[root].append(index // size)
        is_read = any(side == "in" for _, side in removes[0])
        if is_read:  # otherwise they are the output of the network
            yield name, _channel_units(name, removes, blocks)


def _channel_units(
    layer: str, removes: Mapping[int, Mapping[Side, set[int]]], blocks: Mapping[int, list[int]]
) -> list[Unit]:
    """One unit for each channel; channels that a GroupNorm normalizes together are one unit."""
    merged: dict[Any, dict[Side, set[int]]] = defaultdict(lambda: defaultdict(set))
    for channel, sides in removes.items():
        key = tuple(blocks[channel]) if channel in blocks else channel
        for side, indices in sides.items():
            merged[key][side] |= indices
    units = []
    for sides in merged.values():
        frozen = {side: frozenset(indices) for side, indices in sides.items()}
        units.append(Unit("channel", layer, frozen))
    return units


def _side(graph: Any, node: Any, handler: Any) -> str:
    """The side of a node that a pruning function of torch-pruning changes."""
    if isinstance(node.module, nn.Parameter):
        return str(node.pruning_dim)
    if is_depthwise(node.module) or graph.is_out_channel_pruning_fn(handler):
        return "out"
    return "in"


def _dependency_graph(network: nn.Module, images: Tensor) -> Any:
    try:
        import torch_pruning
    except ImportError:
        raise InputError(
            f"pruning needs torch-pruning, which is not installed: {install('prune')}"
        ) from None

    class KeepsChannels(torch_pruning.function.BasePruningFunc):
        """Output channel i of a basis or learned activation is computed from its input channel i.

        Only the graph is used: `kanseg.models.pruned` removes the channels.
        """

        def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: nn.Module) -> int:
            return layer.channels

        get_in_channels = get_out_channels

    pruner, pruners = KeepsChannels(), {}
    for module in network.modules():
        if isinstance(module, (Basis, KANActivation)):
            pruners[type(module)] = pruner
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # about parameters of other modules, whose last axis is taken for their channels
            warnings.filterwarnings("ignore", "Unwrapped parameters")
            return torch_pruning.DependencyGraph().build_dependency(
                network, images, customized_pruners=pruners
            )
    finally:
        for module, mode in modes.items():
            module.training = mode
