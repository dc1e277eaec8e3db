"""Find what goes wrong in a training: infinite or NaN losses, weights and outputs, and layers whose
inputs are off their grids or saturate their domain map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Dataset

from kanseg.data.loader import normalize
from kanseg.layers.inspection.health import (
    OFF_GRID_LIMIT,
    SATURATED_LIMIT,
    LayerHealth,
    measure_health,
)
from kanseg.layers.regularization import kan_layers
from kanseg.models.operations import preserve_state
from kanseg.training.state import TrainState
from kanseg.training.task import Task
from kanseg.utils.io import atomic_write
from kanseg.utils.weights import first_non_finite

MAX_NAMES = 6  # of the samples of a batch, or of layers, in a message
HEALTH_IMAGES = 2


def non_finite_loss(
    model: nn.Module, batch: dict[str, Tensor], names: Sequence[str], run: Path, step: int
) -> str:
    """Save a batch whose loss is not finite, and the weights.

    Returns:
        An error message with the names of the samples, and the first layer whose output is not
        finite.
    """
    layer = first_non_finite_layer(model, batch["image"])
    content = {
        "batch": {key: value.cpu() for key, value in batch.items()},
        "names": list(names),
        "layer": layer,
        "weights": {key: value.cpu() for key, value in model.state_dict().items()},
    }
    path = run / "non_finite.pt"
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
    shown = ", ".join(names[:MAX_NAMES])
    if len(names) > MAX_NAMES:
        shown += f" and {len(names) - MAX_NAMES} more"
    return (
        f"step {step}: the loss is not finite; batch of {shown}; first layer with such an output:"
        f" {layer or 'none, it is the loss'}; batch and weights are in {path}; a lower"
        " training.lr, training.clip or precision 'no' may help"
    )


def non_finite_state(state: TrainState) -> str | None:
    """Return the name of the first value that is not finite after a step: a weight, a running
    statistic, the average, the state of the optimizer, or the output for images of the last batch.
    None if all are finite.
    """
    network = state.network
    weights = {"": network.state_dict()}
    if state.ema is not None:
        weights["the average of "] = state.ema.module.state_dict()
    for prefix, tensors in weights.items():
        name = first_non_finite(tensors)
        if name is not None:
            return f"{prefix}{name}"
    names = {parameter: name for name, parameter in network.named_parameters()}
    for parameter, tensors in state.optimizer.state.items():
        key = first_non_finite(tensors)
        if key is not None:
            return f"{key} of the optimizer for {names.get(parameter, 'a parameter')}"
    if state.last_images is None:
        return None
    fault = None
    with preserve_state(network, training=True), state.accelerator.autocast(), torch.no_grad():
        # forward, not network(...): a compiled network would be compiled once more
        if not _is_finite(network.forward(state.last_images)):
            layer = first_non_finite_layer(network, state.last_images)
            fault = f"the output of {layer or 'the network'}"
    state.penalty()  # clears the values that the layers have collected
    return fault


def _is_finite(output: Any) -> bool:
    """True if a network's output, or each of its parts, has neither NaN nor infinity."""
    if isinstance(output, Tensor):
        return bool(torch.isfinite(output).all())
    return all(_is_finite(part) for part in output)


@torch.no_grad()
def first_non_finite_layer(model: nn.Module, image: Tensor) -> str | None:
    """Return the name of the first module, in the order of execution, whose output is not finite;
    None if all outputs are finite.
    """
    found: list[str] = []

    def check_output(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(name)

    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(partial(check_output, name)))
    try:
        # forward, not model(...): a compiled network would run without the hooks
        model.forward(image.to(next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return next(iter(found), None)


class HealthLog:
    """The health of the layers on two training images; each layer is warned about once.

    Training is not changed: the network runs in evaluation mode, and no random numbers are drawn.

    Args:
        images: (1, C, H, W) each; empty to measure nothing.
        log: prints a line.
    """

    def __init__(self, images: Sequence[Tensor], log: Callable[[str], None]):
        self.images = images
        self.log = log
        self._warned: set[tuple[str, str]] = set()

    @classmethod
    def create(
        cls, state: TrainState, task: Task, dataset: Dataset, log: Callable[[str], None]
    ) -> HealthLog:
        """Read the images, the first and the middle one of the training set.

        There are none without `training.log_health` or KAN layers, in all processes but the main
        one, and if FSDP shards the weights.
        """
        accelerator = state.accelerator
        is_wanted = task.config.training.log_health and accelerator.is_main_process
        is_sharded = accelerator.distributed_type == DistributedType.FSDP
        if not is_wanted or is_sharded or not any(kan_layers(state.network)):
            return cls([], log)
        count = min(HEALTH_IMAGES, len(dataset))
        images = []
        for index in range(count):
            image = dataset[(0, index * len(dataset) // count)]["image"].unsqueeze(0)
            images.append(normalize(image.to(accelerator.device), task.preprocess))
        return cls(images, log)

    def measure(self, network: nn.Module, epoch: int) -> dict[str, dict[str, float]]:
        """Measure the health of the layers, and log a warning for those that need a change.

        Returns:
            Name of a layer -> off_grid and saturated (shares of its inputs, where it has a grid or
            a bounded domain), dead and linear (numbers of functions).
        """
        with preserve_state(network, training=False):
            layers = measure_health(network, self.images)
        self._warn(
            epoch,
            "off_grid",
            [each for each in layers if (each.off_grid or 0) > OFF_GRID_LIMIT],
            "of the inputs lie off the grid; training.update_grid_epochs moves grids to the data,"
            " or set a wider grid_range in model.options",
        )
        self._warn(
            epoch,
            "saturated",
            [each for each in layers if (each.saturated or 0) > SATURATED_LIMIT],
            "of the inputs lie where the domain map is flat; set another domain in model.options,"
            " or a norm",
        )
        return {each.layer: _numbers(each) for each in layers}

    def _warn(self, epoch: int, name: str, layers: Sequence[LayerHealth], message: str) -> None:
        """Log the layers that have not been logged for this yet, with the share of this name."""
        new = [each for each in layers if (name, each.layer) not in self._warned]
        if not new:
            return
        self._warned |= {(name, each.layer) for each in new}
        shown = ", ".join(f"{each.layer} {getattr(each, name):.0%}" for each in new[:MAX_NAMES])
        if len(new) > MAX_NAMES:
            shown += f" and {len(new) - MAX_NAMES} more layers"
        self.log(f"epoch {epoch}: {shown} {message}")


def _numbers(health: LayerHealth) -> dict[str, float]:
    numbers: dict[str, float] = {"dead": health.dead, "linear": health.linear}
    for name in ("off_grid", "saturated"):
        share = getattr(health, name)
        if share is not None:
            numbers[name] = round(share, 4)
    return numbers
