"""Checkpoint folders and exported files -> a network and what is to be known about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kanseg.data.preprocess import Preprocess
from kanseg.inference.checkpoint import (
    MANIFEST,
    check_description,
    load_model,
    preprocess_from,
    read_description,
)
from kanseg.utils import hub
from kanseg.utils.errors import InputError
from kanseg.utils.hub import CONFIG

EXPORTED = (".onnx", ".pt2")


@dataclass(frozen=True)
class Stored:
    """A trained network: (B, C, h, w) -> logits, and how it reads images; `tile` is None for
    whole ones.
    """

    model: nn.Module | Callable[[Tensor], Tensor]
    preprocess: Preprocess
    classes: tuple[str, ...]
    colors: list[tuple[int, int, int]]
    task: str
    tile: tuple[int, int] | None


def load_checkpoint(path: Path) -> Stored:
    """What a checkpoint folder, a run folder (its best weights) or an exported file holds.

    Raises:
        InputError: nothing complete there, or no segmentation network.
    """
    if path.suffix.lower() in EXPORTED:
        from kanseg.inference.exported import load_exported

        model, description = load_exported(path)
    else:
        path = path / "best" if (path / "best").is_dir() else path
        description, model = _stored(path)
    labels = description["labels"]
    if "palette" not in labels:
        raise InputError(
            f"{path} holds a classifier, which gives no masks: kanseg.from_pretrained loads it"
        )
    preprocess = preprocess_from(description["preprocess"])
    if (
        description.get("preprocessing") == "inside"
    ):  # the file takes the values in [0, 1] and does the rest
        preprocess = replace(preprocess, mean=(0.0,), std=(1.0,), gamma=1.0)
    tile = description.get("tile")
    colors = [tuple(color) for color in labels["palette"]]
    return Stored(
        model,
        preprocess,
        tuple(labels["classes"]),
        colors,
        labels["task"],
        None if tile is None else tuple(tile),
    )


def _stored(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Description and network of a checkpoint, or of a trained network that `save_pretrained`
    wrote.
    """
    if (folder / CONFIG).is_file() and not (folder / MANIFEST).exists():
        description = hub.read_description(folder)
        if "preprocess" not in description:
            raise InputError(
                f"{folder} holds a network without preprocessing: kanseg.from_pretrained loads it"
            )
        check_description(description, folder / CONFIG)
        return description, hub.read_network(folder, description)
    description = read_description(folder)
    model = load_model(folder, description)
    model.description, model.class_names = description, tuple(description["labels"]["classes"])
    return description, model
