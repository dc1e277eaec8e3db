"""Remove units from a network, so that its tensors shrink."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.explain.pruning.units import Side, Unit
from kanseg.layers.activation import KANActivation
from kanseg.layers.linear import KANLinear
from kanseg.models.operations import num_parameters, preserve_state
from kanseg.models.pruned import BRANCH, keep
from kanseg.utils.errors import InputError

CLOSE = 0.9  # of the wanted number of parameters
# Of the outputs of a masked and a pruned network in double precision, relative. What attention adds
# to an output can be small, and so can be the difference that another number of channels makes.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Pruned:
    """A pruned network.

    Args:
        network: with smaller tensors.
        sizes: of its layers, for `kanseg.models.pruned.resize`.
        removed: the units that were removed.
    """

    network: nn.Module
    sizes: dict[str, Any]
    removed: list[Unit]

    def count(self, kind: str) -> int:
        """Number of removed units of a kind."""
        return sum(unit.kind == kind for unit in self.removed)


def prune(network: nn.Module, ranked: Sequence[Unit], share: float) -> Pruned:
    """A copy of a network without the units that contribute least.

    Args:
        network: left as it was.
        ranked: of `rank`, the least first; of each layer at least one channel stays.
        share: parameters that stay, as a share of all, above 0 and below 1.

    Raises:
        InputError: the units do not hold enough parameters.
    """
    wanted = share * num_parameters(network)
    size = _size_without(network, ranked)
    if size > wanted:
        raise InputError(
            f"the network cannot be pruned to {share:.0%} of its parameters: without all that can"
            f" be removed, {size / num_parameters(network):.0%} are left"
        )
    ranked = list(ranked)
    while True:
        count = _fewest(network, ranked, wanted)
        pruned = remove(network, ranked[:count])
        # A large unit, such as a basis branch, can be much more than is needed: what follows it in
        # the ranking may be enough.
        last = ranked.pop(count - 1)
        is_close = num_parameters(pruned.network) >= CLOSE * wanted
        if is_close or last.kind == "channel":
            return pruned
        if _size_without(network, ranked) > wanted:
            return pruned


def _fewest(network: nn.Module, ranked: Sequence[Unit], wanted: float) -> int:
    """The smallest number of first units without which at most `wanted` parameters are left."""
    low, high = 0, len(ranked)
    while high - low > 1:
        middle = (low + high) // 2
        if _size_without(network, ranked[:middle]) > wanted:
            low = middle
        else:
            high = middle
    return high


def _size_without(network: nn.Module, units: Iterable[Unit]) -> int:
    """Number of parameters of a network without units."""
    return num_parameters(_remove(_copy_of_modules(network, {}), units).network)


def _copy_of_modules(module: nn.Module, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    """A copy with the same tensors, for changes that replace tensors: a fraction of the time of a
    deep copy.
    """
    if module not in copies:
        copies[module] = copied = copy.copy(module)
        for name in ("_parameters", "_buffers", "_modules"):
            vars(copied)[name] = vars(module)[name].copy()
        for name, child in copied._modules.items():
            if child is not None:
                copied._modules[name] = _copy_of_modules(child, copies)
    return copies[module]


def remove(network: nn.Module, units: Iterable[Unit]) -> Pruned:
    """A copy of a network without units. A unit that is all that is left of a layer stays."""
    return _remove(copy.deepcopy(network), units)


def _remove(network: nn.Module, units: Iterable[Unit]) -> Pruned:
    """Remove units from a network in place, see `remove`."""
    sizes = _sizes(network)
    gone: dict[Side, set[int]] = defaultdict(set)
    removed, without_basis = [], set()
    for unit in units:
        if unit.kind == "channel" and _would_empty(unit, gone, sizes):
            continue
        removed.append(unit)
        if unit.kind == "branch":
            without_basis.add(unit.layer)
        for side, indices in unit.removes.items():
            gone[side] |= indices
    _remove_unused_functions(network, gone)
    kept: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for (name, side), indices in gone.items():
        owner, _, part = name.rpartition(".")
        if owner in without_basis and part in BRANCH:
            continue
        left = sorted(set(range(sizes[name, side])) - indices)
        kept[name][side] = torch.tensor(left, dtype=torch.long)
    return Pruned(network, keep(network, kept, sorted(without_basis)), removed)


@torch.no_grad()
def masked(network: nn.Module, units: Iterable[Unit]) -> nn.Module:
    """A copy of a network of the same size in which nothing reads the channels of the units, and
    their branches and functions are zero.
    """
    network = copy.deepcopy(network)
    modules = dict(network.named_modules())
    for unit in units:
        if unit.kind == "branch":
            layer = modules[unit.layer]
            part = layer.basis_linear if isinstance(layer, KANLinear) else layer.basis_conv
            part.weight.zero_()
        for (name, side), indices in unit.removes.items():
            if side == "in":
                modules[name].weight[:, sorted(indices)] = 0
            elif side == "functions":
                modules[name].weight[sorted(indices)] = 0
    return network


def exact_units(
    network: nn.Module, groups: Mapping[str, Sequence[Unit]], images: Tensor
) -> tuple[list[Unit], list[str]]:
    """Select the groups of units whose removal computes what masking them would compute.

    An unknown operation between layers, or a norm over all channels, makes a difference; such
    channels stay. Each group is tried on the images, in double precision.

    Returns:
        The units that can be removed, and the names of the other groups.
    """
    double = copy.deepcopy(network).double().eval()
    images = images.double()
    candidates, others = {}, []
    for name, units in groups.items():
        if len(units) == 1 and units[0].kind == "channel":
            others.append(name)  # all channels of the layer together
        else:
            candidates[name] = units
    every = [unit for units in candidates.values() for unit in units[: len(units) // 2]]
    if _is_exact(double, every, images):
        return [unit for units in candidates.values() for unit in units], others
    exact = []
    for name, units in candidates.items():
        if _is_exact(double, units[: max(1, len(units) // 2)], images):
            exact += units
        else:
            others.append(name)
    return exact, others


def _is_exact(network: nn.Module, units: Sequence[Unit], images: Tensor) -> bool:
    """Compare a network without units with the network in which they are masked."""
    # Removal fails with many kinds of errors where the graph is not what it seems to be.
    try:
        smaller = remove(network, units)
        with torch.no_grad(), preserve_state(network, training=False):
            got = _first(smaller.network(images))
            expected = _first(masked(network, smaller.removed)(images))
    except (AttributeError, AssertionError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    largest = expected.abs().max().clamp_min(1e-12)
    return got.shape == expected.shape and bool((got - expected).abs().max() <= TOLERANCE * largest)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, (tuple, list)) else output


def _sizes(network: nn.Module) -> dict[Side, int]:
    """Number of indices of each side of the modules and parameters."""
    sizes: dict[Side, int] = {}
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, KANActivation):
            sizes[name, "out"], sizes[name, "functions"] = module.channels, module.num_activations
        elif hasattr(module, "channels") and hasattr(module, "num_functions"):
            sizes[name, "out"] = module.channels
        elif isinstance(weight, Tensor):
            sizes[name, "out"] = len(weight)
            if weight.dim() > 1:
                sizes[name, "in"] = weight.shape[1]
        elif hasattr(module, "num_features"):  # a norm without weights
            sizes[name, "out"] = module.num_features
    for name, parameter in network.named_parameters():
        for axis, size in enumerate(parameter.shape):
            sizes[name, str(axis)] = size
    return sizes


def _would_empty(unit: Unit, gone: Mapping[Side, set[int]], sizes: Mapping[Side, int]) -> bool:
    """True if nothing would be left of a layer."""
    for side, indices in unit.removes.items():
        if len(gone[side]) + len(indices - gone[side]) >= sizes[side]:
            return True
    return False


def _remove_unused_functions(network: nn.Module, gone: dict[Side, set[int]]) -> None:
    """Remove the functions of which all channels are removed."""
    for name, layer in network.named_modules():
        if isinstance(layer, KANActivation) and (name, "out") in gone:
            rows = layer.weight_rows().tolist()
            left = {row for channel, row in enumerate(rows) if channel not in gone[name, "out"]}
            unused = set(range(layer.num_activations)) - left
            if unused:
                gone[name, "functions"] |= unused
