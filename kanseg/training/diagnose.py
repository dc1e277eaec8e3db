"""What to tell when a loss is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from kanseg.errors import InputError

NAMED = 6  # samples of a batch that are named


def report_non_finite(
    model: nn.Module, batch: dict[str, Tensor], names: Sequence[str], run: Path, step: int
) -> NoReturn:
    """Name the samples and the first layer whose output is not finite, save both, and stop.

    Raises:
        InputError: always.
    """
    layer = first_non_finite_layer(model, batch["image"])
    path = run / "non_finite.pt"
    found, weights = (
        {key: value.cpu() for key, value in tensors.items()}
        for tensors in (batch, model.state_dict())
    )
    torch.save({"batch": found, "names": list(names), "layer": layer, "weights": weights}, path)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise InputError(
        f"step {step}: the loss is not finite; batch of {', '.join(names[:NAMED])}{rest}; first"
        f" layer with such an output: {layer or 'none, it is the loss'}; batch and weights are in"
        f" {path}; a lower training.lr, training.clip or precision 'no' may help"
    )


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
