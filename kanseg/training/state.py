"""What a run consists of while it lasts, and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from kanseg.layers import Penalty
from kanseg.training.batches import BatchPlan
from kanseg.training.log import RunLog
from kanseg.training.rates import Rates, Stand
from kanseg.training.task import Task


@dataclass
class Progress:
    """Where a run stands; stored as JSON in every checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimiser steps in all
    loss_sum: float = 0.0  # over the steps of this epoch
    loss_count: int = 0
    best: float | None = None
    best_epoch: int | None = None
    stale: int = 0  # validations since the best one
    stand: Stand = field(default_factory=Stand)  # of the learning rate
    log_bytes: int = 0
    layout: list[int] = field(
        default_factory=list
    )  # samples, batch size, accumulation, processes: what `batch` counts in

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Progress:
        """As a checkpoint has it."""
        return cls(**(stored | {"stand": Stand(**stored.get("stand", {}))}))


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
    log: RunLog
    tell: Callable[[str], None]
    progress: Progress = field(default_factory=Progress)
    average: AveragedModel | None = None  # of the weights (training.ema)
    stop_signal: int | None = None  # SIGTERM or SIGINT, which end the run after the step
    seen: torch.Tensor | None = None  # images of the last batch, two at most
    watch: Callable[[dict[str, Any]], None] | None = (
        None  # gets the log's entry of every epoch but the last, when its checkpoint is complete
    )
    closures: bool = False  # whether the optimiser computes the loss several times a step (LBFGS)

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
