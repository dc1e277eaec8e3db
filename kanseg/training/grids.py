"""Change the functions of KAN layers during training: move the grids to the data
(`training.update_grid_epochs`), and train from coarse to fine (`training.refine`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.data.loader import to_device
from kanseg.layers import refine_functions, update_grids
from kanseg.layers.regularization import kan_layers
from kanseg.models.factory import REFINABLE
from kanseg.training.state import TrainState
from kanseg.training.task import Task
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest


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


def check_refine(settings: Any, model: nn.Module) -> None:
    """Check `training.refine` by refining `model`, which may be on the meta device.

    Raises:
        InputError: epochs that the run does not have, or a step that the network cannot take.
    """
    schedule = settings.refine
    if schedule and settings.find_batch_size:
        raise InputError(
            "training.find_batch_size cannot measure the memory of functions that training.refine"
            " makes finer later on: set it to false, and training.batch_size to one that fits the"
            " finest functions"
        )
    for epoch, step in sorted(schedule.items()):
        where = f"training.refine: epoch {epoch}"
        if not 2 <= epoch <= settings.epochs:
            raise InputError(
                f"{where}: must be from 2 to training.epochs ({settings.epochs}); model.options"
                " holds the functions of epoch 1"
            )
        for key in step:
            if key not in REFINABLE:
                raise InputError(
                    f"{where}: has no setting {key!r}{nearest(key, REFINABLE)} (known:"
                    f" {', '.join(REFINABLE)})"
                )
        if not step:
            raise InputError(f"{where}: must be {' or '.join(REFINABLE)}, got nothing")
        try:
            refine_functions(model, **step)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None


def refine_if_due(state: TrainState, task: Task, log: Callable[[str], None]) -> None:
    """Refine the functions of the network, and of its average, at the start of an epoch in
    `training.refine`.

    The description of the network records it, so that every checkpoint is of its own stage.
    """
    epoch, described = state.progress.epoch + 1, task.description["model"]
    step, before = task.config.training.refine.get(epoch, {}), described.get("refined", {})
    refined = before | step
    if refined == before:  # nothing is due, or a run that is resumed within the epoch
        return
    with _without_wrapper(state) as network:
        changed = refine_functions(network, **step, optimizer=state.optimizer)
    if state.ema is not None:
        refine_functions(state.ema, **step)
    task.description["model"] = described | {"refined": refined}
    sizes = ", ".join(f"{name} {value}" for name, value in step.items())
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    log(
        f"epoch {epoch}: {sizes} in {len(changed)} layers, {parameters:,} parameters; the"
        " network computes the same function as before"
    )


@contextmanager
def _without_wrapper(state: TrainState) -> Iterator[nn.Module]:
    """Context with the network outside of DistributedDataParallel, whose buffers have the sizes of
    the weights. It is wrapped again at the end.
    """
    accelerator = state.accelerator
    if state.network is state.model:
        yield state.network
        return
    network = accelerator.unwrap_model(state.model, keep_fp32_wrapper=False)
    state.model = None
    accelerator.free_memory()
    yield network
    if state.frozen is not None:
        # the wrapper reduces the gradients of the parameters that are trainable when it is made
        state.frozen.unfreeze()
    state.model, state.optimizer = accelerator.prepare(network, state.optimizer)
