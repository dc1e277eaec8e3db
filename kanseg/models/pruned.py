"""Networks with fewer channels and functions than their options say: remove them, and build such a
network again for its stored weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kanseg.bases import Basis
from kanseg.encoders import Encoder, ExternalEncoder
from kanseg.layers.activation import KANActivation
from kanseg.layers.kan_conv import CONVS, KANConv1d, KANConv2d, KANConv3d
from kanseg.layers.linear import KANLinear
from kanseg.models.operations import device_and_dtype, preserve_state
from kanseg.models.segmentation import SegmentationModel

Convs = tuple(CONVS.values())
KANConvs = (KANConv1d, KANConv2d, KANConv3d)
Norms = (_NormBase, nn.GroupNorm, nn.LayerNorm)
BRANCH = ("basis", "basis_conv", "basis_linear", "squeeze", "expand")  # parts of the basis branch
SIDE = 32  # pixels, of an image that tells how many channels features have
Kept = Mapping[str, Mapping[str, Tensor]]


@torch.no_grad()
def keep(network: nn.Module, kept: Kept, removed: Iterable[str] = ()) -> dict[str, Any]:
    """Keep some of the channels of the layers of a network, and remove the others, in place.

    This replaces parameters: create the optimizer afterwards.

    Args:
        network: a network of `kanseg.create_model`, or of other layers of torch.
        kept: name of a module, or of a parameter -> side ("out", "in", "functions", of a parameter
            its axis as "0", "1", ...) -> ascending indices of what stays.
        removed: names of KAN layers that lose their basis branch.

    Returns:
        The sizes as plain JSON, from which `resize` makes the same shapes.

    Raises:
        ValueError: a module that cannot lose channels.
    """
    sizes: dict[str, dict[str, int]] = {}
    for name in removed:
        _remove_basis(network.get_submodule(name))
    for name, sides in kept.items():
        sizes[name] = {side: len(index) for side, index in sides.items()}
        owner, _, attribute = name.rpartition(".")
        module = getattr(network.get_submodule(owner), attribute)
        if isinstance(module, nn.Parameter):
            for axis, index in sides.items():
                _select(network.get_submodule(owner), attribute, int(axis), index)
        elif isinstance(module, KANActivation):
            _keep_functions(network.get_submodule(owner), attribute, sides)
        else:
            _keep_channels(module, sides)
    for module in network.modules():
        if isinstance(module, (*KANConvs, KANLinear)):
            _update_sizes(module)
    _update_features(network)
    return {"sizes": sizes, "without_basis": sorted(removed)}


def resize(network: nn.Module, pruned: Mapping[str, Any]) -> nn.Module:
    """Give a new network the shapes of a pruned one, for its weights.

    Args:
        network: built from the options of the network before pruning.
        pruned: the sizes that `keep` has returned.

    Raises:
        ValueError: sizes that do not fit the network.
    """
    kept: dict[str, dict[str, Tensor]] = {}
    for name, sides in pruned["sizes"].items():
        kept[name] = {}
        for side, size in sides.items():
            kept[name][side] = torch.arange(size)
    try:
        keep(network, kept, pruned["without_basis"])
    except (AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"the sizes of the pruned network do not fit: {error}") from None
    return network


def merge_sizes(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a network that was pruned a second time."""
    if before is None:
        return dict(after)
    sizes = {name: dict(sides) for name, sides in before["sizes"].items()}
    for name, sides in after["sizes"].items():
        sizes[name] = sizes.get(name, {}) | sides
    removed = {*before["without_basis"], *after["without_basis"]}
    present = {}
    for name, sides in sizes.items():
        owner, _, part = name.rpartition(".")
        if owner not in removed or part not in BRANCH:
            present[name] = sides
    return {"sizes": present, "without_basis": sorted(removed)}


def is_depthwise(module: nn.Module) -> bool:
    """True for a convolution that computes every output channel from the input channel of the same
    index alone.
    """
    if not isinstance(module, Convs):
        return False
    return module.groups == module.in_channels == module.out_channels > 1


def _select(module: nn.Module, name: str, axis: int, index: Tensor) -> None:
    """Keep the entries of a parameter or buffer along an axis."""
    old = getattr(module, name)
    if old is None:
        return
    new = old.detach().index_select(axis, index.to(old.device))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)


def _keep_channels(module: nn.Module, sides: Mapping[str, Tensor]) -> None:
    if isinstance(module, Basis):
        module.select_channels(sides["out"])
    elif isinstance(module, (*Convs, nn.Linear)):
        _keep_weights(module, sides)
    elif isinstance(module, Norms):
        _keep_normalized(module, sides["out"])
    elif isinstance(module, nn.PReLU):
        if module.num_parameters > 1:
            _select(module, "weight", 0, sides["out"])
            module.num_parameters = len(sides["out"])
    else:
        raise ValueError(f"a {type(module).__name__} cannot lose channels")


def _keep_weights(module: nn.Module, sides: Mapping[str, Tensor]) -> None:
    """Keep some outputs and inputs of a convolution or linear layer."""
    depthwise = is_depthwise(module)
    if getattr(module, "groups", 1) > 1 and not depthwise:
        raise ValueError("a convolution of several groups cannot lose channels")
    if "out" in sides:
        for name in ("weight", "bias"):
            _select(module, name, 0, sides["out"])
    if "in" in sides and not depthwise:
        _select(module, "weight", 1, sides["in"])
    outputs, inputs = module.weight.shape[:2]
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = outputs, inputs
        return
    module.out_channels, module.in_channels = outputs, inputs
    if depthwise:
        module.in_channels = module.groups = outputs


def _keep_normalized(norm: nn.Module, index: Tensor) -> None:
    """Keep some channels of a norm; a GroupNorm keeps the size of its groups."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(norm, name, None) is not None:
            _select(norm, name, 0, index)
    if isinstance(norm, nn.GroupNorm):
        norm.num_groups = len(index) * norm.num_groups // norm.num_channels
        norm.num_channels = len(index)
    elif isinstance(norm, nn.LayerNorm):
        norm.normalized_shape = (len(index),)
    else:
        norm.num_features = len(index)


def _keep_functions(owner: nn.Module, attribute: str, sides: Mapping[str, Tensor]) -> None:
    """Keep channels and functions of a learned activation, which becomes its base without any."""
    learned: KANActivation = getattr(owner, attribute)
    channels = sides.get("out", torch.arange(learned.channels))
    functions = sides.get("functions", torch.arange(learned.num_activations))
    if len(functions) == 0:
        if learned.base is None:
            raise ValueError("without a base a learned activation needs its functions")
        setattr(owner, attribute, learned.base)
        return
    learned.keep(channels, functions)


def _remove_basis(layer: nn.Module) -> None:
    """Remove the basis branch of a layer with functions per edge; the base branch stays."""
    if isinstance(layer, KANLinear) and layer.base_linear is not None:
        layer.basis = layer.basis_linear = None
    elif isinstance(layer, KANConvs) and layer.base_conv is not None:
        layer.basis = layer.basis_conv = None
        layer.squeeze, layer.expand = nn.Identity(), nn.Identity()
    else:
        raise ValueError(f"a {type(layer).__name__} without a base branch keeps its basis")


def _update_features(network: nn.Module) -> None:
    """Set `out_channels` of encoders and decoders to the channels that they return now."""
    for model in network.modules():
        parts = []
        if isinstance(model, SegmentationModel):
            parts = [model.encoder, model.decoder]
        elif isinstance(model, (Encoder, ExternalEncoder)):
            parts = [model]
        if not parts:
            continue
        device, dtype = device_and_dtype(model)
        x = torch.zeros(1, parts[0].in_channels, SIDE, SIDE, device=device, dtype=dtype)
        with preserve_state(model, training=False):
            for part in parts:
                x = part(x)
                if isinstance(x, Tensor):
                    part.out_channels = x.shape[1]
                else:
                    part.out_channels = [feature.shape[1] for feature in x]


def _update_sizes(layer: nn.Module) -> None:
    """Set the sizes of a KAN layer to those of its parts."""
    if isinstance(layer, KANLinear):
        first = layer.base_linear
        if first is None:
            first = layer.basis_linear
        layer.out_features = first.out_features
        layer.in_features = first.in_features
        if layer.base_linear is None:
            layer.in_features = layer.basis.channels
        return
    first, last = layer.base_conv, layer.base_conv
    if first is None:
        first, last = layer.basis_conv, layer.basis_conv
        if isinstance(layer.squeeze, Convs):
            first, last = layer.squeeze, layer.expand
    layer.out_channels, layer.groups = last.out_channels, last.groups
    layer.in_channels = first.in_channels
    if first is layer.basis_conv:
        layer.in_channels = layer.basis.channels
