"""Checkpoints: folders with the weights, description and settings of a trained network.

They are written atomically, verified by SHA-256, and hold no code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from kanseg.config import ClassificationConfig, Config
from kanseg.data.splits.record import SPLIT, SplitRecord
from kanseg.inference.description import check_description
from kanseg.models import create_model
from kanseg.utils.errors import InputError
from kanseg.utils.hub import stored_arguments
from kanseg.utils.io import file_digest, flush_folder, replace_folder
from kanseg.utils.reading import read_json, typed
from kanseg.utils.text import one_line
from kanseg.utils.weights import WEIGHTS, build_for, check_finite, read_tensors

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
DESCRIPTION = "model.json"
STATE = "state.json"
TENSORS = "training.pt"


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
    """Write a checkpoint to a temporary folder, flush it to disk with a manifest of sizes and
    SHA-256, and rename it.

    Args:
        folder: the checkpoint; an old one is replaced.
        model: its state dict is stored (safetensors).
        description: architecture, classes and preprocessing, see `describe`.
        config: the complete settings of the run.
        state: training state (step, epoch, ...) as JSON, for `--resume`.
        tensors: state dicts of optimizer, schedule, scaler and generators, for `--resume`.
        split: the samples of train, val and test.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        weights = {}
        for name, value in model.state_dict().items():
            weights[name] = value.detach().cpu().contiguous()
        save_file(weights, temporary / WEIGHTS)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
        (temporary / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
        if state is not None:
            (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
        if split is not None:
            (temporary / SPLIT).write_text(split.to_json(), encoding="utf-8")
        if tensors is not None:
            torch.save(dict(tensors), temporary / TENSORS)
        _write_manifest(temporary)
    # torch and safetensors raise errors of their own for a full disk
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        existing = next(parent for parent in folder.parents if parent.exists())
        free = shutil.disk_usage(existing).free
        raise InputError(
            f"{folder}: the checkpoint could not be written ({free / 2**20:.0f} MiB free):"
            f" {one_line(error, 200)}"
        ) from None
    replace_folder(temporary, folder)
    return folder


def read_description(folder: Path) -> dict[str, Any]:
    """Verify the files of a checkpoint and read its description.

    Raises:
        InputError: the checkpoint is not complete, or its description is damaged.
    """
    fault = find_fault(folder)
    if fault is not None:
        raise InputError(f"{folder}: {fault}")
    description = read_json(folder / DESCRIPTION)
    check_description(description, folder / DESCRIPTION)
    return description


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint, on the CPU.

    Raises:
        InputError: weights that are NaN or infinite.
    """
    weights = read_tensors(folder / WEIGHTS)
    check_finite(weights, folder / WEIGHTS)
    return weights


def load_model(folder: Path, description: Mapping[str, Any]) -> nn.Module:
    """Build the network of a checkpoint with its weights.

    Raises:
        InputError: the weights do not match the description.
    """
    arguments = typed(description.get("model"), dict[str, Any], f"{folder}: model")
    try:
        build = partial(create_model, **stored_arguments(arguments))
        return build_for(build, read_weights(folder))
    except ValueError as error:
        raise InputError(f"{folder}: {error}") from None


def find_fault(folder: Path) -> str | None:
    """Say why a folder is not a complete checkpoint (missing, truncated or changed files); None if
    it is one.
    """
    if not folder.is_dir():
        return "no such checkpoint folder"
    if not (folder / MANIFEST).is_file():
        return f"not a checkpoint (it has no {MANIFEST})"
    try:
        entries = _read_manifest(folder)
        for name, entry in entries.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry.size:
                return f"{name} has {path.stat().st_size} bytes instead of {entry.size}"
            if file_digest(path) != entry.sha256:
                return f"{name} is damaged (its SHA-256 differs from the manifest)"
    except (InputError, OSError) as error:  # a failing disk counts as damage too
        return f"damaged: {one_line(error, 200)}"
    for name in (WEIGHTS, DESCRIPTION, CONFIG):
        if name not in entries:
            return f"{name} is missing from the manifest"
    return None


@dataclass(frozen=True)
class _ManifestEntry:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, _ManifestEntry]


def _read_manifest(folder: Path) -> dict[str, _ManifestEntry]:
    """Read the entries by file name; InputError if the manifest is damaged."""
    manifest = typed(read_json(folder / MANIFEST), _Manifest, MANIFEST)
    for name in manifest.files:
        if Path(name).name != name or not name.isprintable():
            raise InputError(f"{MANIFEST}: {name!r:.60} is not the name of a file in the folder")
    return manifest.files


def _write_manifest(folder: Path) -> None:
    """Write the manifest of a folder and flush all its files to disk."""
    entries = {}
    for path in sorted(folder.iterdir()):
        entries[path.name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
    (folder / MANIFEST).write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("r+b") as stream:
            os.fsync(stream.fileno())
    flush_folder(folder)
