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
    """A trained network and what a `Predictor` or a `Classifier` needs to use it.

    Args:
        model: (B, C, h, w) -> logits.
        preprocess: of the training.
        classes: names.
        colors: an RGB color per class; none of a classifier.
        task: "binary", "multiclass", "multilabel" or "classification".
        tile: (h, w) of tiles; None for whole images.
        digest: SHA-256 of the file with the weights.
        image_size: (h, w) of the images that a classifier was trained on; None if unknown.
        one_size: whether it takes no images of another size.
    """

    model: nn.Module | Callable[[Tensor], Tensor]
    preprocess: Preprocess
    classes: tuple[str, ...]
    colors: list[tuple[int, int, int]]
    task: str
    tile: tuple[int, int] | None
    digest: str
    image_size: tuple[int, int] | None = None
    one_size: bool = False

    @property
    def is_classifier(self) -> bool:
        """True for a network that predicts a class of the whole image, no masks."""
        return self.task == "classification"


def holds_classifier(checkpoint: Path) -> bool:
    """True if a checkpoint folder, or the best weights of a run folder, describes a classifier."""
    if (checkpoint / "best").is_dir():
        checkpoint = checkpoint / "best"
    return read_description(checkpoint)["labels"]["task"] == "classification"


def load_checkpoint(path: Path) -> TrainedNetwork:
    """Load a checkpoint folder, a run folder (its best weights) or an exported file.

    Raises:
        InputError: it is not complete, or has no class names or preprocessing.
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
    if labels["task"] != "classification" and labels.get("palette") is None:
        raise InputError(f"{path}: labels: the entry 'palette' is missing")
    preprocess = preprocess_from(description["preprocess"])
    if description.get("preprocessing") == "inside":  # the exported graph normalizes itself
        preprocess = replace(preprocess, mean=(0.0,), std=(1.0,), gamma=1.0)
    tile = description.get("tile")
    if tile is not None:
        tile = tuple(tile)
    arguments = description.get("model") or description.get("classifier") or {}
    stored_size = arguments.get("image_size")
    size = stored_size or description.get("image_size")
    return TrainedNetwork(
        model,
        preprocess,
        tuple(labels["classes"]),
        [tuple(color) for color in labels.get("palette") or ()],
        labels["task"],
        tile,
        digest=file_digest(weights),
        image_size=None if size is None else (int(size[0]), int(size[1])),
        one_size=stored_size is not None,
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
