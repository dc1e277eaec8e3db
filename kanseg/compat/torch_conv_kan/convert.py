"""Convert state dicts of torch-conv-kan for the modules of this package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from kanseg.compat.torch_conv_kan.layer import _LegacyLayer
from kanseg.compat.torch_conv_kan.layouts import StateDict, convert_layer
from kanseg.compat.torch_conv_kan.parts import L1


def convert_state_dict(state_dict: StateDict, module: nn.Module) -> dict[str, Tensor]:
    """Convert a state dict of torch-conv-kan for `module.load_state_dict`.

        from kanseg.compat import torch_conv_kan as tck

        # the call that created the original layer
        layer = tck.KANConv2DLayer(16, 32, 3, padding=1, affine=True)
        layer.load_state_dict(tck.convert_state_dict(torch.load("original.pth"), layer))

    `module` is a layer, flat net or network of this package, or your own module with such parts
    under their original names. Layers are converted by `convert_layer`, other entries are copied.
    The parts of a network have kanseg's names, listed in its `original_names`. L1 wrappers may be
    on other layers than in the original.

    Args:
        state_dict: state dict saved by torch-conv-kan (commit 7a0e83c).
        module: the module to load it into, built with the arguments of the original.

    Returns:
        New tensors for all entries of `module.state_dict()`.

    Raises:
        ValueError: weights of KABN, unknown or missing keys, wrong shapes, or a module without a
            layer of this package. The message names the key.
    """
    new_names: dict[str, str] = {}
    for name, child in module.named_modules():
        prefix = f"{name}.".removeprefix(".")
        for theirs, ours in getattr(child, "original_names", {}).items():
            new_names[prefix + theirs] = prefix + ours
    old_names = {ours: theirs for theirs, ours in new_names.items()}
    layers = _find_layers(module)
    if not layers and not new_names:
        raise ValueError(
            f"{type(module).__name__} holds no layer of kanseg.compat.torch_conv_kan; build the"
            " model with the layers of that package"
        )
    layer_entries: dict[str, dict[str, Tensor]] = {name: {} for name in layers}
    known = module.state_dict()
    converted: dict[str, Tensor] = {}
    for original, value in state_dict.items():
        key = _renamed(original, new_names)
        owner = next((prefix for prefix in _prefixes(key) if prefix in layers), None)
        if owner is not None:
            own_key = key.removeprefix(f"{owner}.")
            # "module." is the prefix of an L1 wrapper in the original.
            layer_entries[owner][own_key.removeprefix("module.")] = value
        elif key in known and value.shape == known[key].shape:
            converted[key] = value.clone()
        elif key in known:
            raise ValueError(
                f"{original!r} does not fit: {type(module).__name__} needs shape"
                f" {tuple(known[key].shape)}, got {tuple(value.shape)}"
            )
        else:
            raise ValueError(
                f"unknown key {original!r} in the state dict: {type(module).__name__} has no such"
                " entry"
            )
    for name, (own_name, layer) in layers.items():
        original_prefix = f"{_renamed(name, old_names)}.".removeprefix(".")
        prefix = f"{own_name}.".removeprefix(".")
        entries = convert_layer(layer_entries[name], layer, prefix=original_prefix)
        for key, value in entries.items():
            converted[prefix + key] = value
    for key in known:
        if key not in converted:
            raise ValueError(
                f"the state dict has no entry for {_renamed(key, old_names)!r} of"
                f" {type(module).__name__}: are these the weights of another network?"
            )
    return converted


def _find_layers(module: nn.Module) -> dict[str, tuple[str, _LegacyLayer]]:
    """Name of each layer, without its L1 wrapper -> (name in the module, layer)."""
    layers = {}
    for name, child in module.named_modules():
        if not isinstance(child, _LegacyLayer):
            continue
        parent, _, _ = name.rpartition(".")
        is_wrapped = name != "" and isinstance(module.get_submodule(parent), L1)
        layers[parent if is_wrapped else name] = name, child
    return layers


def _prefixes(key: str) -> Iterator[str]:
    """a.b.c -> a.b.c, a.b, a and the empty string."""
    parts = key.split(".")
    for n in range(len(parts), -1, -1):
        yield ".".join(parts[:n])


def _renamed(key: str, names: Mapping[str, str]) -> str:
    """The key with the longest prefix that is in `names` replaced."""
    for prefix in _prefixes(key):
        if prefix in names:
            return names[prefix] + key.removeprefix(prefix)
    return key
