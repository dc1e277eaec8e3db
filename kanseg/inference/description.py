"""The description of a trained network that is stored beside its weights: architecture, classes,
preprocessing and tile size, as plain JSON.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from torch import nn

from kanseg.config import Config, ModelConfig
from kanseg.data import LabelSpec, Preprocess
from kanseg.models import create_model
from kanseg.models.factory import CHANGES, with_default_share
from kanseg.models.matching import matched
from kanseg.utils.errors import InputError
from kanseg.utils.hub import FORMAT
from kanseg.utils.reading import typed

MAX_SIDE = 65536  # pixels, largest side of tiles and resized images in a description
# Smallest side of a tile, and that of checkpoints without a tile. Larger tiles than the training
# crops are as accurate for a convolutional network, and faster.
MIN_TILE = 512  # pixels


def describe(config: Config, label_spec: LabelSpec, preprocess: Preprocess) -> dict[str, Any]:
    """Describe a network from the settings of its training, as plain JSON.

    Args:
        config: of the run.
        label_spec: classes and colors of the data.
        preprocess: of the training.
    """
    tile = None
    if preprocess.resize is None:
        crop = config.data.crop or (MIN_TILE, MIN_TILE)
        tile = [max(side, MIN_TILE) for side in crop]
    return {
        "kanseg": FORMAT,
        "model": model_arguments(
            config.model, in_channels=preprocess.channels, classes=label_spec.num_logits
        ),
        "labels": {
            "task": label_spec.task,
            "classes": list(label_spec.classes),
            "palette": [list(color) for color in label_spec.colors],
        },
        "masks": mask_meaning(label_spec),
        "preprocess": asdict(preprocess),
        "tile": tile,
    }


def mask_meaning(label_spec: LabelSpec) -> dict[str, Any]:
    """Describe which class a value or color in a mask is, as plain JSON."""
    values, palette = label_spec.mask_values, label_spec.palette
    if values is not None:
        values = sorted([value, index] for value, index in values.items())
    if palette is not None:
        palette = [list(color) for color in palette]
    return {"mask_values": values, "ignore_index": label_spec.ignore_index, "palette": palette}


def model_arguments(model: ModelConfig, **from_data: Any) -> dict[str, Any]:
    """Collect the arguments of `create_model`, as plain JSON.

    Args:
        model: settings of the network.
        from_data: further arguments, such as `in_channels` and `classes`.

    Raises:
        InputError: options that `model.options` cannot hold, or a width that cannot be matched.
    """
    own = {"name", "basis", "stem", "match", "like", "aux_params", "in_channels", "classes"}
    reserved = (own | from_data.keys() | set(CHANGES)) & model.options.keys()
    if reserved:
        raise InputError(
            f"model.options cannot hold {', '.join(sorted(reserved))}: name, basis, stem, match and"
            f" like are settings of model, {', '.join(CHANGES)} record what was done to a network,"
            " and the others follow from the data"
        )
    encoder = {"encoder": model.encoder, "encoder_weights": model.encoder_weights}
    encoder = {key: value for key, value in encoder.items() if value is not None}
    for key in ("encoder", "encoder_weights"):
        if key not in model.options:
            continue
        if key in encoder:
            raise InputError(f"model.options holds {key}, which is set as model.{key} already")
        warnings.warn(
            f"model.options.{key} is deprecated: set model.{key}, which also freezes a pretrained"
            " encoder at first, trains it at a lower rate and normalizes the images for it",
            DeprecationWarning,
            stacklevel=2,
        )
    arguments = {
        "name": model.name,
        "basis": model.basis,
        "stem": model.stem,
        **from_data,
        **encoder,
        **with_default_share(model.name, model.basis, model.options),
    }
    # The solved width is stored instead of match and like: the weights must fit even if the solver
    # changes.
    try:
        return matched(create_model, arguments | {"match": model.match, "like": model.like})
    except (TypeError, ValueError) as error:
        raise InputError(f"model: {error}") from None


def build_model(arguments: dict[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Call `create_model` with arguments from a config or a description.

    Args:
        arguments: of `create_model`.
        pretrained: load pretrained weights of the encoder; a checkpoint does not need them.

    Raises:
        InputError: arguments that `create_model` refuses, or too little memory.
    """
    if "encoder_weights" in arguments and not pretrained:
        arguments = arguments | {"encoder_weights": None}
    try:
        return create_model(**arguments)
    except InputError as error:  # other arguments raise ValueError
        raise InputError(f"model.encoder_weights: {error}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"model: {error}") from None
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise InputError(
            "model: not enough memory for the network; lower its width (model.options)"
        ) from None


@dataclass(frozen=True)
class _Labels:
    """The entry `labels` of a description; a classifier has no palette."""

    task: Literal["binary", "multiclass", "multilabel", "classification"]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None

    @property
    def num_logits(self) -> int:
        return 1 if self.task == "binary" else len(self.classes)


def check_description(description: Any, where: object) -> None:
    """Check that a description has the entries that `describe` writes, with valid types and sizes;
    other entries are ignored.

    Raises:
        InputError: an invalid entry; the message begins with `where`.
    """
    if not isinstance(description, dict):
        raise InputError(f"{where}: expected an object, got {description!r:.60}")
    if description.get("kanseg") != FORMAT:
        raise InputError(
            f"{where}: has format {description.get('kanseg')!r:.60}, but this version of kanseg"
            f" reads {FORMAT}; use the version that wrote it"
        )
    for name in ("labels", "preprocess"):
        if name not in description:
            raise InputError(f"{where}: the entry {name!r} is missing")
    labels = typed(description["labels"], _Labels, f"{where}: labels")
    if labels.task == "classification":
        _check_class_names(labels.classes, where)
    else:
        _check_labels(labels, where)
    preprocess = preprocess_from(description["preprocess"], where=f"{where}: preprocess")
    tile = typed(description.get("tile"), tuple[int, int] | None, f"{where}: tile")
    if tile is not None and not all(1 <= side <= MAX_SIDE for side in tile):
        raise InputError(f"{where}: tile must have 1 to {MAX_SIDE} pixels, got {list(tile)}")
    model = typed(description.get("model", {}), dict[str, Any], f"{where}: model")
    classifier = typed(description.get("classifier", {}), dict[str, Any], f"{where}: classifier")
    for entries in (description, model, classifier):
        typed(entries.get("image_size"), tuple[int, int] | None, f"{where}: image_size")
    expected = {"classes": labels.num_logits, "in_channels": preprocess.channels}
    for key, value in expected.items():
        if model.get(key, value) != value:
            raise InputError(f"{where}: model: {key} is {model[key]!r:.60} and should be {value}")


def _check_class_names(classes: Sequence[str], where: object) -> None:
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise InputError(f"{where}: labels: expected two classes or more, each with its own name")


def _check_labels(labels: _Labels, where: object) -> None:
    try:
        LabelSpec(labels.task, labels.classes)
    except InputError as error:
        raise InputError(f"{where}: labels: {error}") from None
    if labels.palette is None:
        return
    if len(labels.palette) < len(labels.classes):
        raise InputError(f"{where}: labels: palette has fewer colors than there are classes")
    for color in labels.palette:
        if not all(0 <= value <= 255 for value in color):
            raise InputError(f"{where}: labels: colors must be 0 to 255, got {list(color)}")


def preprocess_from(stored: Any, where: object = "preprocess") -> Preprocess:
    """Read the preprocessing of a description.

    Raises:
        InputError: unknown or missing entries, other types, numbers out of range.
    """
    found = typed(stored, Preprocess, where)
    if not 1 <= found.channels <= 65535:
        raise InputError(f"{where}: channels must be 1 to 65535, got {found.channels}")
    for name, values in (("mean", found.mean), ("std", found.std)):
        if len(values) not in (1, found.channels) or not all(isfinite(value) for value in values):
            raise InputError(f"{where}: {name} must be a number per channel, got {values!r:.60}")
    if min(found.std) <= 0:
        raise InputError(f"{where}: std must be above 0, got {found.std!r:.60}")
    if not 0 < found.gamma < float("inf"):
        raise InputError(f"{where}: gamma must be above 0, got {found.gamma}")
    if found.interpolation not in ("linear", "area"):
        raise InputError(f"{where}: interpolation must be linear or area")
    if found.resize is not None and not all(1 <= side <= MAX_SIDE for side in found.resize):
        raise InputError(f"{where}: resize must have 1 to {MAX_SIDE} pixels")
    return found
