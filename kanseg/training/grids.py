"""Update the grids of KAN layers to the data during training (`training.update_grid_epochs`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.data.loader import to_device
from kanseg.layers import update_grids
from kanseg.layers.regularization import kan_layers
from kanseg.training.state import TrainState
from kanseg.training.task import Task
from kanseg.utils.errors import InputError


def check_update_grid_epochs(settings: Any, model: nn.Module) -> None:
    """Check `training.update_grid_epochs`; `model` may be on the meta device.

    Raises:
        InputError: epochs that the run does not have, or a network without grids.
    """
    epochs = settings.update_grid_epochs
    if not epochs:
        return
    if min(epochs) < 1 or max(epochs) > settings.epochs or len(set(epochs)) < len(epochs):
        raise InputError(
            f"training.update_grid_epochs must be different epochs from 1 to training.epochs"
            f" ({settings.epochs}), got {epochs}"
        )
    if not any(layer.basis.has_grid for layer in kan_layers(model)):
        raise InputError(
            "training.update_grid_epochs: no layer of this network has a grid; use the basis"
            " bspline or rbf, or leave it out"
        )


def update_grids_if_due(
    state: TrainState, task: Task, group: list[dict[str, Tensor]], log: Callable[[str], None]
) -> None:
    """Fit the grids to the batches of the first step of an epoch in `update_grid_epochs`, once."""
    progress, accelerator = state.progress, state.accelerator
    epoch = progress.epoch + 1
    if epoch not in task.config.training.update_grid_epochs or progress.grids_moved_in == epoch:
        return
    device = accelerator.device
    images = [to_device(batch, device, task.preprocess)["image"] for batch in group]
    # With a batch size of 1, images can have different sizes: use those of the size of the first.
    images = [each for each in images if each.shape[1:] == images[0].shape[1:]]
    copies = []
    if state.ema is not None:
        copies.append(state.ema)
    try:
        with accelerator.autocast():
            update_grids(
                state.network,
                torch.cat(images),
                optimizer=state.optimizer,
                copies=copies,
                seed=task.config.seed + progress.epoch,
            )
    except ValueError as error:
        raise InputError(f"training.update_grid_epochs: {error}") from None
    progress.grids_moved_in = epoch
    log(f"epoch {epoch}: grids moved to the data of {sum(map(len, images))} images")
