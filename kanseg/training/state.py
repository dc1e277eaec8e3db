"""What a run consists of while it lasts, and where it stands."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from kanseg.inference.checkpoint import STATE, TENSORS
from kanseg.layers import Penalty
from kanseg.training.batches import BatchPlan
from kanseg.training.optim.lr_scheduler import Rates, Stand
from kanseg.training.run_folder.logging import RunLog
from kanseg.training.task import Task
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json, typed


@dataclass
class Progress:
    """Where a run stands; stored as JSON in every checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimizer steps in all
    loss_sum: float = 0.0  # over the steps of this epoch
    loss_count: int = 0
    best: float | None = None
    best_epoch: int | None = None
    stale: int = 0  # validations since the best one
    stand: Stand = field(default_factory=Stand)  # of the learning rate
    grids_moved_in: int = 0  # epoch, from 1, in which grids were last moved to the data
    log_bytes: int = 0
    layout: list[int] = field(
        default_factory=list
    )  # samples, batch size, accumulation, processes: what `batch` counts in

    @classmethod
    def of(cls, stored: Any, where: object = "state") -> Progress:
        """As a checkpoint has it.

        Raises:
            InputError: unknown or missing entries, other types, numbers that no run comes to.
        """
        found = typed(stored, cls, where)
        counts = (found.epoch, found.batch, found.step, found.loss_count, found.stale)
        if min(*counts, found.log_bytes, found.stand.stale, found.best_epoch or 0) < 0:
            raise InputError(f"{where}: a count below 0")
        if found.layout and (len(found.layout) != 4 or min(found.layout) < 1):
            raise InputError(f"{where}: layout must be four numbers above 0")
        samples, size, _, processes = found.layout or (0, 1, 1, 1)
        if found.layout and (found.batch - 1) * size * processes >= samples:
            raise InputError(f"{where}: batch {found.batch} lies beyond the end of an epoch")
        return found


def read_training(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, tensors) of a checkpoint that can be resumed: what `Progress.of` and
    `check_tensors` take.

    Raises:
        InputError: damaged, or of another form.
    """
    path = folder / STATE
    state = read_json(path)
    Progress.of(state, path)
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


@dataclass
class Training:
    """Everything that the loop works with; built by `kanseg.training.run`."""

    task: Task
    config: Any
    run: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    rates: Rates
    loss: Callable[[Any, torch.Tensor], torch.Tensor]
    penalty: Penalty
    plan: BatchPlan
    loader: DataLoader
    run_log: RunLog
    log: Callable[[str], None]
    progress: Progress = field(default_factory=Progress)
    average: AveragedModel | None = None  # of the weights (training.ema)
    stop_signal: int | None = None  # SIGTERM or SIGINT, which end the run after the step
    seen: torch.Tensor | None = None  # images of the last batch, two at most
    watch: Callable[[dict[str, Any]], None] | None = (
        None  # gets the log's entry of every epoch but the last, when its checkpoint is complete
    )
    closures: bool = False  # whether the optimizer computes the loss several times a step (LBFGS)

    @property
    def network(self) -> nn.Module:
        """The network that is trained, without what spreads it over processes."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def result(self) -> nn.Module:
        """The network that is measured and stored as best: the average of the weights where there
        is one.
        """
        return self.network if self.average is None else self.average.module

    @property
    def stopped_early(self) -> bool:
        """Whether there were `training.patience` validations without an improvement."""
        patience = self.config.training.patience
        return bool(patience) and self.progress.stale >= patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.progress.epoch >= self.config.training.epochs or self.stopped_early
