"""Find where a loss, a weight or an output became infinite or NaN."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.models.operations import preserve_state
from kanseg.training.state import TrainState
from kanseg.utils.io import atomic_write
from kanseg.utils.weights import first_non_finite

MAX_NAMES = 6  # of the samples of a batch in a message


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
