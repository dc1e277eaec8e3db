"""Read and check the training state in a checkpoint: state.json and training.pt."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kanseg.inference.checkpoint import STATE, TENSORS
from kanseg.training.state import Progress
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json, typed
from kanseg.utils.text import one_line


def read_training(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read state.json and training.pt of a checkpoint, for `Progress.from_json` and
    `check_tensors`.

    Raises:
        InputError: damaged, or of another form.
    """
    path = folder / STATE
    state = read_json(path)
    Progress.from_json(state, path)
    tensors = typed(_load_tensors(folder / TENSORS), dict[str, Any], folder / TENSORS)
    return state, tensors


def _load_tensors(path: Path) -> Any:
    """Load a file of torch.save without the risk of running code.

    Only uncompressed zip files, which torch writes, are read: before torch 2.6 a file in the older
    format could run code (CVE-2025-32434), and compressed entries could fill the memory.
    """
    # Damaged pickles raise exceptions of any kind: UnpicklingError, EOFError, KeyError,
    # UnicodeDecodeError, IndexError, struct.error, RuntimeError of the zip reader, ...
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError("its entries are compressed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} is damaged: {one_line(error, 200)}") from None


def check_tensors(content: Any, optimizer: torch.optim.Optimizer) -> None:
    """Check that the content of training.pt fits an optimizer.

    Raises:
        InputError: it does not fit.
    """
    found = typed(content, _Tensors, "training state")
    for group in found.optimizer.param_groups:
        typed(group.get("params"), list[int], "param_groups: params")
    random = torch.get_rng_state()
    if not found.generators:
        raise InputError("generators are missing")
    for generator in found.generators:
        if generator.cpu.dtype != torch.uint8 or generator.cpu.shape != random.shape:
            raise InputError("the state of a generator has another size")
        if any(each.dtype != torch.uint8 or each.dim() != 1 for each in generator.cuda):
            raise InputError("the state of a generator has another size")
    _check_optimizer(optimizer, found.optimizer)


@dataclass(frozen=True)
class _Optimizer:
    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


@dataclass(frozen=True)
class _Generator:
    cpu: torch.Tensor
    cuda: list[torch.Tensor] = field(default_factory=list)
    loss_sum: float = 0.0


@dataclass(frozen=True)
class _Tensors:
    """The content of training.pt, see `kanseg.training.run_folder.checkpointing.save`."""

    optimizer: _Optimizer
    average: dict[str, torch.Tensor]
    scaler: dict[str, Any]
    generators: list[_Generator]


def _check_optimizer(optimizer: torch.optim.Optimizer, stored: _Optimizer) -> None:
    """Check the names and shapes in the state of an optimizer. torch checks only the number of
    parameters, and then fails at the first step.
    """
    groups, stored_groups = optimizer.param_groups, stored.param_groups
    parameters: list[torch.Tensor] = []
    for group in groups:
        parameters += group["params"]
    numbers: list[int] = []
    for group in stored_groups:
        numbers += group["params"]
    if len(parameters) != len(numbers) or len(groups) != len(stored_groups):
        raise InputError("the state of the optimizer is that of other parameters")
    for group, stored_group in zip(groups, stored_groups, strict=True):
        # schedulers add "initial_lr"
        if (set(group) ^ set(stored_group)) - {"initial_lr"}:
            raise InputError("the state of the optimizer is that of another optimizer")
    total = sum(parameter.numel() for parameter in parameters)
    for number, parameter in zip(numbers, parameters, strict=True):
        # LBFGS has one state for all parameters, flattened
        shapes = (parameter.shape, (total,))
        for name, value in stored.state.get(number, {}).items():
            values = value
            if not isinstance(value, list):
                values = [value]
            for tensor in values:
                if not isinstance(tensor, torch.Tensor) or tensor.numel() == 1:
                    continue
                if tensor.shape not in shapes:
                    raise InputError(f"the state of the optimizer ({name}) has other shapes")
