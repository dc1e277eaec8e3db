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


def read_training(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, tensors) of a checkpoint that can be resumed: what `Progress.from_json` and
    `check_tensors` take.

    Raises:
        InputError: damaged, or of another form.
    """
    path = folder / STATE
    state = read_json(path)
    Progress.from_json(state, path)
    tensors = typed(_load_tensors(folder / TENSORS), dict[str, Any], folder / TENSORS)
    return state, tensors


def _load_tensors(path: Path) -> Any:
    """What torch.save wrote, without anything that could be code.

    Zip files only, and none of them compressed: that is how torch writes them. The loader of the
    older form can be made to run code before torch 2.6 (CVE-2025-32434), and compressed entries to
    fill the memory.
    """
    # Damaged pickles end in any exception that there is: UnpicklingError, EOFError, KeyError,
    # UnicodeDecodeError, IndexError, struct.error, RuntimeError of the zip reader, ...
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError("its entries are compressed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is damaged: {text}") from None


def check_tensors(content: Any, optimizer: torch.optim.Optimizer) -> None:
    """InputError unless it is what `save` stores for an optimizer of these parameters."""
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
    """training.pt, as of `kanseg.training.run_folder.checkpointing.save`."""

    optimizer: _Optimizer
    average: dict[str, torch.Tensor]
    scaler: dict[str, Any]
    generators: list[_Generator]


def _check_optimizer(optimizer: torch.optim.Optimizer, stored: _Optimizer) -> None:
    """InputError unless the stored state is one of an optimizer of these parameters: torch itself
    looks at the number of parameters only, and fails at the first step.
    """
    groups, theirs = optimizer.param_groups, stored.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    numbers = [number for group in theirs for number in group["params"]]
    ours = [sorted(set(group) - {"initial_lr"}) for group in groups]
    if len(parameters) != len(numbers) or len(groups) != len(theirs):
        raise InputError("the state of the optimizer is that of other parameters")
    if ours != [sorted(set(group) - {"initial_lr"}) for group in theirs]:
        raise InputError("the state of the optimizer is that of another optimizer")
    total = sum(parameter.numel() for parameter in parameters)
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in stored.state.get(number, {}).items():
            values = value if isinstance(value, list) else [value]
            for each in values:
                # LBFGS has one state for all parameters, flattened
                fits = not isinstance(each, torch.Tensor) or (
                    each.numel() == 1 or each.shape == parameter.shape or each.shape == (total,)
                )
                if not fits:
                    raise InputError(f"the state of the optimizer ({name}) has other shapes")
