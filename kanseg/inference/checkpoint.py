"""Checkpoints: folders that are written whole or not at all, and hold no code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from kanseg.config import ClassificationConfig, Config, ModelConfig
from kanseg.data import LabelSpec, Preprocess
from kanseg.data.split_record import SPLIT, SplitRecord
from kanseg.models import create_model
from kanseg.models.factory import with_default_share
from kanseg.models.matching import matched
from kanseg.utils.errors import InputError
from kanseg.utils.hub import FORMAT, build_for, check_finite, read_tensors, stored_arguments
from kanseg.utils.reading import read_json, typed

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
DESCRIPTION = "model.json"
STATE = "state.json"
TENSORS = "training.pt"
MAX_SIDE = 65536  # of tiles and resized images that a checkpoint can ask for, in pixels
MIN_TILE = (
    512  # a convolutional network sees larger images than its training crops as well, and faster
)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    description: Mapping[str, Any],
    config: Config | ClassificationConfig,
    *,
    state: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    split: SplitRecord | None = None,
) -> Path:
    """Write a checkpoint: to a temporary folder, flushed to disk with a manifest of sizes and
    SHA-256, then renamed.

    Args:
        folder: where it will be; one that is there is deleted when the new one has its name.
        model: whose state dict is stored (safetensors).
        description: what is needed to use the weights: see `describe`.
        config: the run's complete settings.
        state: numbers of the training (step, epoch, ...) as JSON, for `--resume`.
        tensors: state dicts of optimizer, schedule, scaler and generators, for `--resume`.
        split: the samples that the weights were trained, selected and tested on.
    """
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        weights = {
            name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
        }
        save_file(weights, building / WEIGHTS)
        (building / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
        (building / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
        if state is not None:
            (building / STATE).write_text(json.dumps(state), encoding="utf-8")
        if split is not None:
            (building / SPLIT).write_text(split.to_json(), encoding="utf-8")
        if tensors is not None:
            torch.save(dict(tensors), building / TENSORS)
        _seal(building)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors have their own words for a full disk
        shutil.rmtree(building, ignore_errors=True)
        free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
        raise InputError(
            f"{folder}: the checkpoint could not be written ({free / 2**20:.0f} MiB free):"
            f" {' '.join(str(error).split())[:200]}"
        ) from None
    take_name(building, folder)
    return folder


def model_arguments(model: ModelConfig, **given: Any) -> dict[str, Any]:
    """Arguments of `create_model` from the settings of the network and what follows from the data:
    plain JSON.
    """
    reserved = {
        "name",
        "basis",
        "stem",
        "match",
        "like",
        "aux_params",
        "in_channels",
        "classes",
        *given,
    } & set(model.options)
    if reserved:
        raise InputError(
            f"model.options cannot hold {', '.join(sorted(reserved))}: name, basis, stem, match and"
            " like stand beside it, the others follow from the data"
        )
    arguments = {
        "name": model.name,
        "basis": model.basis,
        "stem": model.stem,
        **given,
        **with_default_share(model.name, model.basis, model.options),
    }
    # the width itself, not what it was solved from: weights must fit whatever becomes of the
    # solving
    try:
        return matched(create_model, arguments | {"match": model.match, "like": model.like})
    except (TypeError, ValueError) as error:
        raise InputError(f"model: {error}") from None


def describe(config: Config, info: LabelSpec, preprocess: Preprocess) -> dict[str, Any]:
    """What a checkpoint tells about its weights, beside the config: plain JSON."""
    arguments = model_arguments(
        config.model, in_channels=preprocess.channels, classes=info.num_logits
    )
    return {
        "kanseg": 1,
        "model": arguments,
        "labels": {
            "task": info.task,
            "classes": list(info.classes),
            "palette": [list(c) for c in info.colors],
        },
        "masks": mask_meaning(info),
        "preprocess": asdict(preprocess),
        "tile": (
            None
            if preprocess.resize
            else [max(side, MIN_TILE) for side in config.data.crop or (MIN_TILE, MIN_TILE)]
        ),
    }


def mask_meaning(info: LabelSpec) -> dict[str, Any]:
    """What decides which class a value or color in a mask is: plain JSON."""
    values, palette = info.mask_values, info.palette
    return {
        "mask_values": None if values is None else sorted([v, i] for v, i in values.items()),
        "ignore_index": info.ignore_index,
        "palette": None if palette is None else [list(color) for color in palette],
    }


def read_description(folder: Path) -> dict[str, Any]:
    """The description in a checkpoint.

    Raises:
        InputError: it is not a complete checkpoint, or does not describe one.
    """
    fault = find_fault(folder)
    if fault is not None:
        raise InputError(f"{folder}: {fault}")
    description = read_json(folder / DESCRIPTION)
    check_description(description, folder / DESCRIPTION)
    return description


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, on the CPU.

    Raises:
        InputError: weights that are NaN or infinite.
    """
    weights = read_tensors(folder / WEIGHTS)
    check_finite(weights, folder / WEIGHTS)
    return weights


def load_model(folder: Path, description: Mapping[str, Any]) -> nn.Module:
    """The network of a checkpoint with its weights; InputError where they do not fit together."""
    arguments = typed(description.get("model"), dict[str, Any], f"{folder}: model")
    try:
        return build_for(partial(_create_stored, arguments), read_weights(folder))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _create_stored(arguments: Mapping[str, Any]) -> nn.Module:
    return create_model(**stored_arguments(arguments))


@dataclass(frozen=True)
class _Labels:
    """The entry `labels` of a description; a classifier has no palette."""

    task: Literal["binary", "multiclass", "multilabel", "classification"]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None


def check_description(description: Any, where: object) -> None:
    """InputError unless a description holds what `describe` writes, of the right types and sizes;
    further entries are not looked at.
    """
    if not isinstance(description, dict):
        raise InputError(f"{where}: expected an object, got {description!r:.60}")
    if description.get("kanseg") != FORMAT:
        raise InputError(
            f"{where}: has format {description.get('kanseg')!r:.60}, this kanseg reads"
            f" {FORMAT}: use the version that wrote it"
        )
    for name in ("labels", "preprocess"):
        if name not in description:
            raise InputError(f"{where}: the entry {name!r} is missing")
    labels = typed(description["labels"], _Labels, f"{where}: labels")
    if labels.task != "classification":
        try:
            LabelSpec(labels.task, labels.classes)
        except InputError as error:
            raise InputError(f"{where}: labels: {error}") from None
        if labels.palette is not None and len(labels.palette) < len(labels.classes):
            raise InputError(f"{where}: fewer colors than classes")
        if any(not 0 <= value <= 255 for color in labels.palette or () for value in color):
            raise InputError(f"{where}: colors must be of 0 to 255")
    preprocess = preprocess_from(description["preprocess"], where=f"{where}: preprocess")
    tile = typed(description.get("tile"), tuple[int, int] | None, f"{where}: tile")
    if tile is not None and not all(1 <= side <= MAX_SIDE for side in tile):
        raise InputError(f"{where}: tile must be of 1 to {MAX_SIDE} pixels, got {list(tile)}")
    model = typed(description.get("model", {}), dict[str, Any], f"{where}: model")
    logits = len(labels.classes)
    if labels.task == "binary":
        logits = 1
    for key, value in (("classes", logits), ("in_channels", preprocess.channels)):
        if model.get(key, value) != value:
            raise InputError(f"{where}: model: {key} is {model[key]!r:.60} and should be {value}")


def preprocess_from(stored: Any, where: object = "preprocess") -> Preprocess:
    """The preprocessing that a checkpoint describes.

    Raises:
        InputError: unknown or missing entries, other types, numbers out of range.
    """
    found = typed(stored, Preprocess, where)
    for name in ("mean", "std"):
        values = getattr(found, name)
        if len(values) not in (1, found.channels) or not all(isfinite(value) for value in values):
            raise InputError(f"{where}: {name} must be a number a channel, got {values!r:.60}")
    if not 1 <= found.channels <= 65535 or min(found.std) <= 0:
        raise InputError(f"{where}: channels and std must be above 0")
    if not 0 < found.gamma < float("inf") or found.interpolation not in ("linear", "area"):
        raise InputError(f"{where}: gamma or interpolation is none that there is")
    if found.resize is not None and not all(1 <= side <= MAX_SIDE for side in found.resize):
        raise InputError(f"{where}: resize must be of 1 to {MAX_SIDE} pixels")
    return found


def build_model(arguments: dict[str, Any], *, pretrained: bool = False) -> nn.Module:
    """`create_model` with arguments from a config or a checkpoint; what it refuses is an
    InputError.

    Pretrained weights of an encoder are fetched only if asked for: a checkpoint has its own.
    """
    if "encoder_weights" in arguments and not pretrained:
        arguments = arguments | {"encoder_weights": None}
    try:
        return create_model(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"model: {error}") from None
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise InputError(
            "model: the network needs more memory than there is; lower its width (model.options)"
        ) from None


def find_fault(folder: Path) -> str | None:
    """Why a folder is no complete checkpoint (missing, torn or changed files), or None."""
    if not folder.is_dir():
        return "no such checkpoint folder"
    if not (folder / MANIFEST).is_file():
        return f"not a checkpoint (it has no {MANIFEST})"
    try:
        listed = _read_manifest(folder)
        for name, entry in listed.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry.size:
                return f"{name} has {path.stat().st_size} bytes instead of {entry.size}"
            if _sha256(path) != entry.sha256:
                return f"{name} is damaged (another SHA-256 than in the manifest)"
    except (InputError, OSError) as error:  # a disk that fails is damage too
        return f"damaged: {' '.join(str(error).split())[:200]}"
    missing = [name for name in (WEIGHTS, DESCRIPTION, CONFIG) if name not in listed]
    return f"{missing[0]} is missing from the manifest" if missing else None


@dataclass(frozen=True)
class _Entry:
    """What the manifest says of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, _Entry]


def _read_manifest(folder: Path) -> dict[str, _Entry]:
    """The files of a checkpoint by name; InputError where the manifest is damaged."""
    manifest = typed(read_json(folder / MANIFEST), _Manifest, MANIFEST)
    for name in manifest.files:
        if Path(name).name != name or not name.isprintable():
            raise InputError(f"{MANIFEST}: {name!r:.60} is missing: no name of a file here")
    return manifest.files


def point_to(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to target, replacing an older one in one step; a copy
    where links are not allowed.
    """
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    _delete(temporary)
    try:
        temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    except OSError:  # Windows without the privilege, some network file systems
        shutil.copytree(target, temporary)
    if link.is_dir() and not (link.is_symlink() and temporary.is_symlink()):
        take_name(temporary, link)  # a run that was copied without its links has folders here
    else:
        temporary.replace(link)


def take_name(building: Path, path: Path) -> None:
    """Rename a complete folder. One that has the name already is renamed before and deleted after:
    whenever the process is killed, one of the two is there and complete.
    """
    old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    _delete(old)
    if os.path.lexists(path):
        path.replace(old)
    building.replace(path)
    _flush_folder(path.parent)
    _delete(old)


def _delete(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Write the manifest and flush everything to disk."""
    entries = {
        path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
    }
    (folder / MANIFEST).write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("r+b") as stream:
            os.fsync(stream.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
