"""State dicts of torch-conv-kan turned into those of the modules of this package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from kanseg.compat.torch_conv_kan.layer import _LegacyLayer
from kanseg.compat.torch_conv_kan.layouts import StateDict, convert_layer
from kanseg.compat.torch_conv_kan.parts import L1


def convert_state_dict(state_dict: StateDict, module: nn.Module) -> dict[str, Tensor]:
    """The state dict of torch-conv-kan in the layout of `module`, ready for
    `module.load_state_dict`.

        from kanseg.compat import torch_conv_kan as tck

        # the call that made the weights
        layer = tck.KANConv2DLayer(16, 32, 3, padding=1, affine=True)
        layer.load_state_dict(tck.convert_state_dict(torch.load("theirs.pth"), layer))

    `module` is a layer, flat net or network of this package, or any module of your own that holds
    them under the names they had there: each layer is converted by `convert_layer`, and all other
    entries are copied. The parts of a network have kanseg's names; its `original_names` says which.
    The wrapper L1 need not be on the same layers.

    Args:
        state_dict: as torch-conv-kan (commit 7a0e83c) saves it.
        module: what the weights are for, built with the arguments of the original.

    Returns:
        New entries for all of `module.state_dict()`.

    Raises:
        ValueError: weights of KABN; keys that no part of `module` has, parts that `state_dict`
            lacks, shapes that do not fit; a module
            without a layer of this package. The message names the key.
    """
    table = _original_names(module)
    layers = {
        _without_l1(name, module): child
        for name, child in module.named_modules()
        if isinstance(child, _LegacyLayer)
    }
    if not layers and not table:
        raise ValueError(
            f"{type(module).__name__} holds no layer of kanseg.compat.torch_conv_kan; build the"
            " model with the layers of that package"
        )
    shares: dict[str, dict[str, Tensor]] = {name: {} for name in layers}
    labels = {
        name: _renamed(name, {ours: theirs for theirs, ours in table.items()}) for name in layers
    }
    known = module.state_dict()
    converted: dict[str, Tensor] = {}
    for original, value in state_dict.items():
        key = _renamed(original, table)
        owner = next((prefix for prefix in _prefixes(key) if prefix in layers), None)
        if owner is not None:
            own = key.removeprefix(f"{owner}.") if owner else key
            shares[owner][own.removeprefix("module.")] = (
                value  # of an L1 there, whether or not there is one here
            )
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
    for name, layer in layers.items():
        new, label = (
            "".join(f"{part}." for part in (at,) if part)
            for at in (_inside_l1(name, module), labels[name])
        )
        converted |= {
            new + key: value
            for key, value in convert_layer(shares[name], layer, prefix=label).items()
        }
    missing = [key for key in known if key not in converted]
    if missing:
        name = _renamed(missing[0], {ours: theirs for theirs, ours in table.items()})
        raise ValueError(
            f"the state dict has nothing for {name!r} of {type(module).__name__}: are these the"
            " weights of another network?"
        )
    return converted


def _prefixes(key: str) -> Iterator[str]:
    """a.b.c -> a.b.c, a.b, a and the empty string."""
    parts = key.split(".")
    return (".".join(parts[:n]) for n in range(len(parts), -1, -1))


def _original_names(module: nn.Module) -> dict[str, str]:
    """Names there -> names here, of all networks in the module."""
    table = {}
    for name, child in module.named_modules():
        dot = f"{name}." if name else ""
        table |= {
            dot + theirs: dot + ours
            for theirs, ours in getattr(child, "original_names", {}).items()
        }
    return table


def _renamed(key: str, table: Mapping[str, str]) -> str:
    """The key with its longest prefix in the table replaced; itself where there is none."""
    found = next((prefix for prefix in _prefixes(key) if prefix in table), None)
    return key if found is None else table[found] + key.removeprefix(found)


def _without_l1(name: str, module: nn.Module) -> str:
    """The name of a layer, or of the L1 around it."""
    outside = name.rpartition(".")[0]
    return outside if name and isinstance(module.get_submodule(outside), L1) else name


def _inside_l1(name: str, module: nn.Module) -> str:
    """The other way round."""
    inside = f"{name}.module" if name else "module"
    return inside if isinstance(module.get_submodule(name), L1) else name
