"""Grids that follow the data while a network trains (`training.update_grid_epochs`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kanseg.layers import update_grids
from kanseg.layers.regularization import kan_layers
from kanseg.training.state import Training
from kanseg.utils.errors import InputError


def check_update_grid_epochs(settings: Any, model: nn.Module) -> None:
    """InputError for epochs that the run does not have, or a network without grids; `model` may be
    on the meta device.
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
            "training.update_grid_epochs: no layer of this network has a grid; take the basis"
            " bspline or rbf, or leave it out"
        )


def update_grids_if_due(training: Training, group: list[dict[str, Tensor]]) -> None:
    """Move the grids to the batches of the first step of an epoch that asks for it, once."""
    progress = training.progress
    due = progress.epoch + 1 in training.config.training.update_grid_epochs
    if not due or progress.grids_moved_in == progress.epoch + 1:
        return
    device = training.accelerator.device
    dataset = training.loader.dataset
    images = [dataset.finish(batch, device)["image"].to(device) for batch in group]
    # Images of all sizes come one by one: those of the size of the first are enough.
    images = [each for each in images if each.shape[1:] == images[0].shape[1:]]
    try:
        with training.accelerator.autocast():
            update_grids(
                training.network,
                torch.cat(images),
                optimizer=training.optimizer,
                copies=[] if training.average is None else [training.average],
                seed=training.config.seed + progress.epoch,
            )
    except ValueError as error:
        raise InputError(f"training.update_grid_epochs: {error}") from None
    progress.grids_moved_in = progress.epoch + 1
    training.log(f"epoch {progress.epoch + 1}: grids moved to {sum(map(len, images))} images")
