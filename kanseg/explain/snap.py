"""Snap a trained network: replace its learned functions by formulas, and train it on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kanseg.explain.formulas import (
    THRESHOLD,
    Formula,
    LayerFormulas,
    formulas,
    plain_formulas,
)
from kanseg.explain.source import Source, read_input, some_images
from kanseg.layers.activation import KANActivation
from kanseg.layers.inspection.formulas import FormulaActivation, replace_by_formulas
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text, file_digest
from kanseg.utils.reading import read_json
from kanseg.utils.weights import WEIGHTS

SETTINGS = "settings.json"  # what a folder of `snap_checkpoint` is of
SNAPPED = "snapped"  # checkpoint with the formulas, in the folder of `snap_checkpoint`
TUNED = "tuned"  # run folder of the training that follows
LR_FACTOR = 0.1  # of the learning rate of the training


@dataclass(frozen=True)
class Snapped:
    """What `snap_checkpoint` has done.

    Args:
        found: the formulas of all functions.
        replaced: functions that were replaced.
        total: functions of all layers, also those per edge, which cannot be replaced.
        checkpoint: with the formulas, before and after training.
    """

    found: list[LayerFormulas]
    replaced: int
    total: int
    checkpoint: Path


@torch.no_grad()
def snap(
    network: nn.Module, found: Sequence[LayerFormulas], *, threshold: float = THRESHOLD
) -> dict[str, list[str | None]]:
    """Replace the functions of a network whose formulas reach a threshold by these formulas, in
    place; only those of learned activations, not functions per edge, and not those of normalized
    inputs (domain instance_norm, layer_norm), whose formulas are not of the inputs of the layer.

    Args:
        network: the network that `found` is of.
        found: its formulas.
        threshold: R^2 from which a formula replaces a function.

    Returns:
        Name of each changed activation -> family of each function, None for those that stay
        learned; `create_model(..., formulas=...)` builds the same structure.
    """
    families: dict[str, list[str | None]] = {}
    fitted: dict[str, list[Formula]] = {}
    for layer in found:
        module = network.get_submodule(layer.layer)
        if not isinstance(module, KANActivation) or not module.basis.is_pointwise:
            continue
        names = [each.family if each.r2 >= threshold else None for each in layer.fitted]
        if any(names):
            families[layer.layer], fitted[layer.layer] = names, layer.fitted
    replace_by_formulas(network, families)
    for name, layer_fitted in fitted.items():
        _set_parameters(network.get_submodule(name), layer_fitted)
    return families


def _set_parameters(activation: FormulaActivation, fitted: Sequence[Formula]) -> None:
    for row, formula in enumerate(fitted):
        if activation.families[row] is None:
            continue
        for name in ("a", "b", "c", "d", "lo", "hi"):
            getattr(activation, name)[row] = getattr(formula, name)


def snap_checkpoint(
    checkpoint: Path,
    images: str,
    output: Path,
    *,
    threshold: float = THRESHOLD,
    max_images: int = 32,
    epochs: int = 0,
    lr: float | None = None,
    device: str | None = None,
    log: Callable[[str], None] = print,
) -> Snapped:
    """Replace the functions of a checkpoint by formulas, write `snapped/` and `formulas.json`, and
    train the result on.

    Args:
        checkpoint: checkpoint or run folder.
        images: a file, folder or pattern of images, whose inputs weigh the fits.
        output: folder for the results, which holds none yet, or those of the same call: an
            interrupted one continues.
        threshold: R^2 from which a formula replaces a function.
        max_images: number of images, evenly spaced over all.
        epochs: of the training that follows, into `tuned/`; 0 for none.
        lr: its learning rate; by default a tenth of that of the checkpoint.
        device: torch device; by default a GPU if there is one.
        log: receives a line about each decision.

    Raises:
        InputError: a checkpoint, images or a folder that cannot be used, or no function with a
            formula.
    """
    if not 0 < threshold <= 1 or max_images < 1 or epochs < 0:
        raise InputError(
            "the threshold must be above 0 and at most 1, the number of images at least 1, the"
            f" epochs at least 0; got {threshold}, {max_images} and {epochs}"
        )
    source = Source.read(checkpoint, device)
    settings = {
        "weights": file_digest(source.folder / WEIGHTS),
        "images": images,
        "threshold": threshold,
        "max_images": max_images,
        "epochs": epochs,
        "lr": lr,
    }
    if (output / SNAPPED).exists() and _stored_settings(output) != settings:
        raise InputError(f"{output} holds a snapped network already: choose another folder")
    network = source.network
    if "formulas" in source.description["model"]:
        raise InputError(f"{checkpoint} was snapped before: give the checkpoint that it came from")
    place = next(network.parameters()).device
    batches = []
    for path in some_images(images, max_images):
        batches.append(read_input(path, source.preprocess)[1].to(place))
    found = formulas(network, batches, threshold=threshold)
    if not found:
        raise InputError(
            f"{checkpoint}: no layer has learned functions, so there is nothing to replace; give a"
            " network that was trained with a basis, and not pruned of all its functions"
        )
    families = snap(network, found, threshold=threshold)
    if not families:
        best = max((r2 for layer in found for r2 in layer.r2), default=float("nan"))
        raise InputError(
            f"{checkpoint}: no learned activation has a formula with R^2 of at least {threshold:g}"
            f" (the best has {best:.4f}); functions per edge, and those of a domain that normalizes"
            " images, are not replaced"
        )
    output.mkdir(parents=True, exist_ok=True)
    atomic_write_text(output / SETTINGS, json.dumps(settings, indent=1) + "\n")
    folder = source.save(output / SNAPPED, network, {"formulas": families})
    atomic_write_text(output / "formulas.json", json.dumps(plain_formulas(found), indent=1) + "\n")
    if epochs:
        log(f"training the formulas for {epochs} epochs in {output / TUNED}")
        rate = LR_FACTOR * source.config.training.lr if lr is None else lr
        folder = source.train_on(folder, output / TUNED, epochs=epochs, lr=rate)
    replaced = sum(name is not None for names in families.values() for name in names)
    return Snapped(found, replaced, sum(layer.num_functions for layer in found), folder)


def _stored_settings(output: Path) -> dict[str, object] | None:
    """The settings of the call that has written to a folder; None if they are not known."""
    file = output / SETTINGS
    return read_json(file) if file.is_file() else None
