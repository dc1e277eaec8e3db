"""The state of a training: network, optimizer, scheduler, and progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from kanseg.layers import Penalty
from kanseg.training.optim.lr_scheduler import PlateauState
from kanseg.training.pretrained import FrozenEncoder
from kanseg.utils.errors import InputError
from kanseg.utils.reading import typed


@dataclass
class Progress:
    """The progress of a training; stored as JSON in every checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimizer steps in all
    loss_sum: float = 0.0  # over the steps of this epoch
    loss_count: int = 0
    best: float | None = None  # score of the best validation
    best_epoch: int | None = None
    stale: int = 0  # validations since the best one
    lr_scheduler: PlateauState = field(default_factory=PlateauState)
    grids_moved_in: int = 0  # epoch, from 1, in which grids were last moved to the data
    log_bytes: int = 0
    # samples, batch size, accumulation and processes, which `batch` depends on
    layout: list[int] = field(default_factory=list)

    @classmethod
    def from_json(cls, stored: Any, path: object = "state") -> Progress:
        """Read the state of a checkpoint.

        Raises:
            InputError: unknown or missing entries, wrong types, impossible numbers.
        """
        if isinstance(stored, dict) and "stand" in stored:  # its name in older runs
            stored = dict(stored)
            stored["lr_scheduler"] = stored.pop("stand")
        found = typed(stored, cls, path)
        counts = (found.epoch, found.batch, found.step, found.loss_count, found.stale)
        if min(*counts, found.log_bytes, found.lr_scheduler.stale, found.best_epoch or 0) < 0:
            raise InputError(f"{path}: a count below 0")
        if not found.layout:
            return found
        if len(found.layout) != 4 or min(found.layout) < 1:
            raise InputError(f"{path}: layout must be four numbers above 0")
        samples, batch_size, _, processes = found.layout
        if (found.batch - 1) * batch_size * processes >= samples:
            raise InputError(f"{path}: batch {found.batch} lies beyond the end of an epoch")
        return found

    def stopped_early(self, patience: int) -> bool:
        """True after `training.patience` validations without an improvement (0: never)."""
        return bool(patience) and self.stale >= patience

    def finished(self, settings: Any) -> bool:
        """True if the training is complete by these settings (`training` of an experiment)."""
        return self.epoch >= settings.epochs or self.stopped_early(settings.patience)


@dataclass
class TrainState:
    """The state that training steps update and checkpoints store.

    Args:
        accelerator: device, precision and processes.
        model: the network, prepared by Accelerate.
        optimizer: prepared by Accelerate.
        penalty: of the layers, added to the loss.
        ema: exponential moving average of the weights; None without `training.ema`.
        frozen: the encoder that is not trained in the first epochs; None if it always is.
        lr_scheduler: set when the number of steps is known.
        progress: epochs, steps and best score so far.
        last_images: at most two images of the last batch, for the check before a checkpoint.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    penalty: Penalty
    ema: AveragedModel | None = None
    frozen: FrozenEncoder | None = None
    lr_scheduler: LambdaLR | None = None
    progress: Progress = field(default_factory=Progress)
    last_images: Tensor | None = None

    @property
    def network(self) -> nn.Module:
        """The network itself, without the wrapper of several processes."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def eval_network(self) -> nn.Module:
        """The network that is validated and saved as best: the average if there is one."""
        if self.ema is None:
            return self.network
        return self.ema.module
