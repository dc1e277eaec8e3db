"""What to tell when a loss, or what a step leaves, is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.models.operations import left_as_found
from kanseg.training.state import Training
from kanseg.utils.hub import first_non_finite
from kanseg.utils.io import atomic_write

NAMED = 6  # samples of a batch that are named


def non_finite_loss(
    model: nn.Module, batch: dict[str, Tensor], names: Sequence[str], run: Path, step: int
) -> str:
    """Save a batch whose loss is not finite, and the weights; the message that names its samples
    and the first layer whose output is not finite.
    """
    layer = first_non_finite_layer(model, batch["image"])
    found, weights = (
        {key: value.cpu() for key, value in tensors.items()}
        for tensors in (batch, model.state_dict())
    )
    content = {"batch": found, "names": list(names), "layer": layer, "weights": weights}
    path = run / "non_finite.pt"
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"step {step}: the loss is not finite; batch of {', '.join(names[:NAMED])}{rest}; first"
        f" layer with such an output: {layer or 'none, it is the loss'}; batch and weights are in"
        f" {path}; a lower training.lr, training.clip or precision 'no' may help"
    )


def non_finite_state(training: Training) -> str | None:
    """What a step has left that is not finite: a weight, a running statistic, the average, the
    optimizer's state, or the output for the images of the last batch. None where all is well.
    """
    network = training.network
    states = {"": network.state_dict()}
    if training.average is not None:
        states["the average of "] = training.average.module.state_dict()
    for word, state in states.items():
        name = first_non_finite(state)
        if name is not None:
            return f"{word}{name}"
    names = {parameter: name for name, parameter in network.named_parameters()}
    for parameter, state in training.optimizer.state.items():
        key = first_non_finite(state)
        if key is not None:
            return f"{key} of the optimizer for {names.get(parameter, 'a parameter')}"
    if training.seen is None:
        return None
    with left_as_found(network, training=True), training.accelerator.autocast(), torch.no_grad():
        # forward: compiled, it would be compiled once more
        finite = _is_finite(network.forward(training.seen))
        layer = None if finite else first_non_finite_layer(network, training.seen)
    training.penalty()  # forgets what the layers have told it
    return None if finite else f"the output of {layer or 'the network'}"


def _is_finite(output: Any) -> bool:
    """Whether a network's output, of several parts too, has neither NaN nor infinity."""
    if isinstance(output, Tensor):
        return bool(torch.isfinite(output).all())
    return all(_is_finite(part) for part in output)


@torch.no_grad()
def first_non_finite_layer(model: nn.Module, image: Tensor) -> str | None:
    """Name of the first module, in the order of execution, whose output has a NaN or an infinity;
    None if none has.
    """
    found: list[str] = []

    def watch(name: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        model.forward(
            image.to(next(model.parameters()).device)
        )  # not model(...): compiled, it would run without the hooks
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
