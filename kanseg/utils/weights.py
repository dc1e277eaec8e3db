"""Read weights from safetensors files, and build the networks that they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from kanseg.utils.errors import InputError
from kanseg.utils.text import one_line

WEIGHTS = "model.safetensors"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file to the CPU.

    Raises:
        InputError: no such file, or another format.
    """
    if not path.is_file():
        raise InputError(f"{path} cannot be read: no such file")
    # safetensors raises SafetensorError, KeyError, ValueError, RuntimeError or OverflowError for an
    # invalid header.
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from None


def first_non_finite(tensors: Mapping[str, Any]) -> str | None:
    """Name of the first tensor with NaN or infinite values; None if there is none."""
    for name, value in tensors.items():
        floats = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        if floats and not torch.isfinite(value).all():
            return name
    return None


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise InputError for weights with NaN or infinite values."""
    name = first_non_finite(weights)
    if name is not None:
        raise InputError(
            f"{path}: {name} has NaN or infinite values, so the network cannot be used; take"
            " another checkpoint"
        )


def build_for(build: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a network from arguments that came with the weights, and load them.

    The network is first built on the meta device, and allocated only if the weights fit: untrusted
    arguments may ask for terabytes, or for millions of layers.

    Raises:
        InputError: arguments that build no network, or weights of other names, shapes or types.
    """
    # Options reach all layers and other libraries, which raise many kinds of errors for invalid
    # ones (AttributeError, KeyError, ZeroDivisionError, AssertionError).
    try:
        with torch.device("meta"), _limit_parameters(1000 + 4 * len(weights)):
            on_meta = build()
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise InputError(f"the network cannot be built: {one_line(error)}") from None
        on_meta = None  # a few external encoders cannot be built on the meta device
    except Exception as error:
        raise InputError(f"the network cannot be built: {one_line(error)}") from None
    if on_meta is not None:
        _load(on_meta, weights, assign=True)  # copies to the meta device would warn
    try:
        model = build()
    except Exception as error:
        raise InputError(f"the network cannot be built: {one_line(error)}") from None
    _load(model, weights)
    return model


@contextmanager
def _limit_parameters(limit: int) -> Iterator[None]:
    """Raise InputError if modules register more than `limit` parameters."""
    count = 0

    def register(module: nn.Module, name: str, parameter: object) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise InputError("it has many more parameters than the file has tensors")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def _load(model: nn.Module, weights: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Load a state dict; InputError for other names, shapes or types. Any float type is accepted
    for another, but not integers for floats, which torch would convert.
    """
    for name, value in model.state_dict().items():
        stored = weights.get(name, value)
        are_floats = stored.is_floating_point() and value.is_floating_point()
        if stored.dtype != value.dtype and not are_floats:
            raise InputError(
                f"{WEIGHTS} does not fit the network: {name} holds {stored.dtype}, not"
                f" {value.dtype}"
            )
    # Modules may have their own code for loading, which raises many kinds of errors.
    try:
        model.load_state_dict(dict(weights), assign=assign)
    except Exception as error:
        raise InputError(f"{WEIGHTS} does not fit the network: {one_line(error)}") from None
