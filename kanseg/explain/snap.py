"""Snap a trained network: replace its learned functions by formulas, and train it on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kanseg.config import ClassificationConfig, Config
from kanseg.data.io.images import decode_image
from kanseg.data.preprocess import Preprocess
from kanseg.data.splits.record import read_record
from kanseg.explain.formulas import (
    THRESHOLD,
    Formula,
    LayerFormulas,
    formulas,
    plain_formulas,
)
from kanseg.inference.checkpoint import CONFIG, load_model, read_description, save_checkpoint
from kanseg.inference.description import preprocess_from
from kanseg.inference.files.inputs import find_images
from kanseg.inference.predictor import usable_device
from kanseg.layers.activation import KANActivation
from kanseg.layers.inspection.formulas import FormulaActivation, replace_by_formulas
from kanseg.training.run import train
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_text

SNAPPED = "snapped"  # checkpoint with the formulas, in the folder of `snap_checkpoint`
TUNED = "tuned"  # run folder of the training that follows
MAX_SIDE = 512  # pixels of an image that is not resized
LR_FACTOR = 0.1  # of the learning rate of the training


@dataclass(frozen=True)
class Snapped:
    """What `snap_checkpoint` has done.

    Args:
        found: the formulas of all functions.
        replaced: functions that were replaced.
        total: functions of all layers, also those per edge, which cannot be replaced.
        checkpoint: with the formulas, before and after training.
        results: `metrics.json` of the training; None without one.
    """

    found: list[LayerFormulas]
    replaced: int
    total: int
    checkpoint: Path
    results: dict[str, Any] | None


@torch.no_grad()
def snap(
    network: nn.Module, found: Sequence[LayerFormulas], *, threshold: float = THRESHOLD
) -> dict[str, list[str | None]]:
    """Replace the functions of a network whose formulas reach a threshold by these formulas, in
    place; only those of learned activations, not functions per edge.

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
        if not isinstance(network.get_submodule(layer.layer), KANActivation):
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
        for name in ("a", "b", "c", "d"):
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
        output: folder for the results, which must not hold any yet.
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
    if (checkpoint / "best").is_dir():
        checkpoint = checkpoint / "best"
    if (output / SNAPPED).exists():
        raise InputError(f"{output} holds a snapped network already: choose another folder")
    description = read_description(checkpoint)
    if "formulas" in description["model"]:
        raise InputError(f"{checkpoint} was snapped before: give the checkpoint that it came from")
    network = load_model(checkpoint, description).to(usable_device(device)).eval()
    found = formulas(
        network,
        _batches(images, preprocess_from(description["preprocess"]), network, max_images),
        threshold=threshold,
    )
    families = snap(network, found, threshold=threshold)
    if not families:
        best = max((r2 for layer in found for r2 in layer.r2), default=float("nan"))
        raise InputError(
            f"{checkpoint}: no learned activation has a formula with R^2 of at least {threshold:g}"
            f" (the best has {best:.4f}); functions per edge are not replaced"
        )
    description["model"] = description["model"] | {"formulas": families}
    kind = Config if description["labels"]["task"] != "classification" else ClassificationConfig
    config = kind.from_yaml(read_text(checkpoint / CONFIG))
    output.mkdir(parents=True, exist_ok=True)
    folder = save_checkpoint(
        output / SNAPPED, network, description, config, split=read_record(checkpoint)
    )
    atomic_write_text(output / "formulas.json", json.dumps(plain_formulas(found), indent=1) + "\n")
    results = None
    if epochs:
        log(f"training the formulas for {epochs} epochs in {output / TUNED}")
        results = tune(folder, config, output / TUNED, epochs=epochs, lr=lr)
        folder = output / TUNED / "best"
    replaced = sum(name is not None for names in families.values() for name in names)
    return Snapped(found, replaced, sum(layer.num_functions for layer in found), folder, results)


def tune(
    checkpoint: Path,
    config: Config | ClassificationConfig,
    run: Path,
    *,
    epochs: int,
    lr: float | None = None,
) -> dict[str, Any]:
    """Train the network of a checkpoint on, with the settings of its training; return the content
    of `metrics.json`.

    Args:
        checkpoint: the network to begin with.
        config: settings of its training.
        run: the run folder.
        epochs: number of epochs.
        lr: learning rate; by default a tenth of that of the settings.
    """
    preprocess = preprocess_from(read_description(checkpoint)["preprocess"])
    rate = LR_FACTOR * config.training.lr if lr is None else lr
    # what the functions were trained with at first is over
    training = replace(
        config.training,
        epochs=epochs,
        lr=rate,
        refine={},
        update_grid_epochs=[],
        freeze_encoder_epochs=0,
    )
    data = replace(config.data, mean=list(preprocess.mean), std=list(preprocess.std))
    model = replace(config.model, encoder_weights=None, start_from=str(checkpoint))
    settings = replace(config, run_dir=str(run), data=data, model=model, training=training)
    return train(settings)


def _batches(images: str, preprocess: Preprocess, network: nn.Module, count: int) -> list[Tensor]:
    """Images as the network gets them, each (1, C, h, w), evenly spaced over all."""
    paths = find_images(images)
    step = max(1, -(-len(paths) // count))
    device = next(network.parameters()).device
    batches = []
    for path in paths[::step]:
        values = preprocess.scale(decode_image(path), name=str(path))
        if preprocess.resize is None:
            values = values[:MAX_SIDE, :MAX_SIDE]
        batches.append(preprocess.normalize(values)[None].to(device))
    return batches
