"""Load trained networks from checkpoint folders and exported files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kanseg.data.preprocess import Preprocess
from kanseg.inference.checkpoint import MANIFEST, WEIGHTS, load_model, read_description
from kanseg.inference.description import check_description, preprocess_from
from kanseg.utils import hub
from kanseg.utils.errors import InputError
from kanseg.utils.io import file_digest

EXPORTED = (".onnx", ".pt2")


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network and what a `Predictor` needs to use it.

    Args:
        model: (B, C, h, w) -> logits.
        preprocess: of the training.
        classes: names.
        colors: an RGB color per class.
        task: "binary", "multiclass" or "multilabel".
        tile: (h, w) of tiles; None for whole images.
        digest: SHA-256 of the file with the weights.
    """

    model: nn.Module | Callable[[Tensor], Tensor]
    preprocess: Preprocess
    classes: tuple[str, ...]
    colors: list[tuple[int, int, int]]
    task: str
    tile: tuple[int, int] | None
    digest: str


def load_checkpoint(path: Path) -> TrainedNetwork:
    """Load a checkpoint folder, a run folder (its best weights) or an exported file.

    Raises:
        InputError: it is not complete, or not a segmentation network.
    """
    if path.suffix.lower() in EXPORTED:
        from kanseg.inference.exported import load_exported

        model, description = load_exported(path)
        weights = path
    else:
        if (path / "best").is_dir():
            path = path / "best"
        description, model = _load_folder(path)
        weights = path / WEIGHTS
    labels = description["labels"]
    if "palette" not in labels:
        raise InputError(
            f"{path} holds a classifier, which predicts no masks; load it with"
            " kanseg.from_pretrained"
        )
    preprocess = preprocess_from(description["preprocess"])
    if description.get("preprocessing") == "inside":  # the exported graph normalizes itself
        preprocess = replace(preprocess, mean=(0.0,), std=(1.0,), gamma=1.0)
    tile = description.get("tile")
    if tile is not None:
        tile = tuple(tile)
    colors = [tuple(color) for color in labels["palette"]]
    classes = tuple(labels["classes"])
    return TrainedNetwork(
        model, preprocess, classes, colors, labels["task"], tile, digest=file_digest(weights)
    )


def _load_folder(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Load the description and network of a checkpoint, or of what `save_pretrained` wrote."""
    if (folder / hub.CONFIG).is_file() and not (folder / MANIFEST).exists():
        description = hub.read_description(folder)
        if "preprocess" not in description:
            raise InputError(
                f"{folder} holds a network without preprocessing; load it with"
                " kanseg.from_pretrained"
            )
        check_description(description, folder / hub.CONFIG)
        return description, hub.read_network(folder, description)
    description = read_description(folder)
    model = load_model(folder, description)
    model.description = description
    model.class_names = tuple(description["labels"]["classes"])
    return description, model
