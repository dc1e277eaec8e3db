"""Pretrained weights of encoders: a file or folder, a name on the hub, or the name that another
library gives them.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from torch import Tensor

from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json
from kanseg.utils.text import one_line
from kanseg.utils.weights import check_finite, read_tensors

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder and of the hub, the first wins
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
DESCRIPTIONS = ("model.json", "config.json")
# Entries of a file that hold the weights, and what training code puts before their names.
ENTRIES = ("state_dict", "model", "teacher")
PREFIXES = ("module.", "model.", "encoder.", "backbone.")


@dataclass(frozen=True)
class ImageStatistics:
    """Mean and standard deviation per channel of the images that an encoder was trained on, of
    values in [0, 1] after the gamma.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    gamma: float = 1.0


IMAGENET = ImageStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class HubFile:
    """Where a library has pretrained weights.

    Args:
        repo: on the Hugging Face hub.
        files: names in the repository, in the order of preference.
        revision: of the repository.
        url: of the file, if it is not on the hub.
        statistics: of the images; by default those of the repository's config.json.
    """

    repo: str
    files: tuple[str, ...] = FILES
    revision: str | None = None
    url: str | None = None
    statistics: ImageStatistics | None = None


@dataclass(frozen=True)
class EncoderWeights:
    """A file of weights; `source` is for messages."""

    path: Path
    source: str
    statistics: ImageStatistics | None


def local_weights(weights: str | Path) -> EncoderWeights | None:
    """Find weights in a file, a folder or the folder of a training run; None if there is no such
    file or folder.

    Raises:
        InputError: a folder without weights, or a path of a file that does not exist.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return EncoderWeights(path, str(path), None)
    if not path.is_dir():
        if path.suffix in SUFFIXES or str(weights).startswith(("/", ".", "~")):
            raise InputError(f"no file or folder {weights}")
        return None
    if (path / "best").is_dir():
        path = path / "best"
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        candidates = [each for each in sorted(path.iterdir()) if each.suffix in SUFFIXES]
        if len(candidates) != 1:
            raise InputError(f"{path} has no {' or '.join(FILES)}; give the file itself")
        file = candidates[0]
    description = next((path / name for name in DESCRIPTIONS if (path / name).is_file()), None)
    statistics = None
    if description is not None:
        statistics = stored_statistics(read_json(description), description)
    return EncoderWeights(file, str(file), statistics)


def hub_weights(place: HubFile) -> EncoderWeights:
    """Find weights in the local cache of the hub, or download them.

    Raises:
        InputError: they are not in the cache and cannot be downloaded; the message says what was
            tried, and how to bring the file here.
    """
    if place.url is not None:
        return EncoderWeights(_from_url(place.url), place.url, place.statistics)
    statistics = place.statistics
    try:
        path = _from_hub(place, place.files)
        if statistics is None:
            config = _from_hub(place, ("config.json",))
            statistics = stored_statistics(read_json(config), config)
    except (OSError, EntryNotFoundError, HFValidationError) as error:
        revision = f" --revision {place.revision}" if place.revision else ""
        raise InputError(
            f"{place.repo} is not in the cache of the hub ({HF_HUB_CACHE}), and"
            f" https://huggingface.co/{place.repo} did not give {place.files[0]}"
            f" ({one_line(error, 120)}). Without a network, run `hf download {place.repo}{revision}"
            " --local-dir FOLDER` where there is one, copy FOLDER here, and set"
            " model.encoder_weights to it"
        ) from None
    return EncoderWeights(path, f"{place.repo} of the hub", statistics)


def _from_hub(place: HubFile, names: Sequence[str]) -> Path:
    """The first of some files that a repository has, from the cache if one is there."""
    for only_cache in (True, False):
        for name in names:
            try:
                return Path(
                    hf_hub_download(
                        place.repo, name, revision=place.revision, local_files_only=only_cache
                    )
                )
            except EntryNotFoundError as error:
                # The last resort has failed: the hub cannot be reached, or has none of the files.
                if not only_cache and (isinstance(error, OSError) or name == names[-1]):
                    raise
    raise AssertionError("unreachable")


def _from_url(url: str) -> Path:
    """The file of an address in the cache of torch.hub, downloaded if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} does not exist, and {url} could not be downloaded"
            f" ({one_line(error, 120)}). Without a network, download it elsewhere and set"
            " model.encoder_weights to the file"
        ) from None
    return path


def stored_statistics(content: Any, where: object) -> ImageStatistics | None:
    """Mean and standard deviation in the JSON beside weights, of kanseg, timm or SMP; None if it
    has none.

    Raises:
        InputError: the encoder was trained on images in BGR order.
    """
    if not isinstance(content, Mapping):
        return None
    for key in ("preprocess", "pretrained_cfg"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    if content.get("input_space", "RGB") != "RGB":
        raise InputError(
            f"{where}: the encoder was trained on images in {content['input_space']} order, which"
            " kanseg does not feed; choose other weights"
        )
    mean, std = _numbers(content.get("mean")), _numbers(content.get("std"))
    gamma = content.get("gamma", 1.0)
    if not mean or len(mean) != len(std) or min(std) <= 0 or not isinstance(gamma, (int, float)):
        return None
    largest = max(_numbers(content.get("input_range")) or (1.0,))
    return ImageStatistics(
        tuple(value / largest for value in mean),
        tuple(value / largest for value in std),
        float(gamma),
    )


def _numbers(values: Any) -> tuple[float, ...]:
    """Finite numbers of a list; empty for anything else."""
    if not isinstance(values, (list, tuple)) or not values:
        return ()
    if not all(isinstance(value, (int, float)) and isfinite(value) for value in values):
        return ()
    return tuple(float(value) for value in values)


def read_encoder_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, safetensors or a state dict of torch, without running code.

    Raises:
        InputError: another file, or weights with NaN or infinite values.
    """
    if path.suffix == ".safetensors":
        tensors = read_tensors(path)
    else:
        tensors = _read_state_dict(path)
    check_finite(tensors, path)
    for prefix in PREFIXES:
        inside = [name for name in tensors if name.startswith(prefix)]
        if inside and not any(name.startswith("encoder.body.") for name in inside):
            tensors = {name.removeprefix(prefix): tensors[name] for name in inside}
    return tensors


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict that `torch.save` has written."""
    # torch raises many kinds of errors for a damaged archive.
    errors = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*errors, AttributeError, TypeError, IndexError) as error:
        raise InputError(
            f"{path} cannot be read as weights ({one_line(error, 120)}); save the state dict alone,"
            " torch.save(model.state_dict(), ...), or a safetensors file"
        ) from None
    for key in ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no tensors by name; expected a state dict")
    return tensors


def misfits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The wanted tensors that are missing in a state dict, or have another shape there."""
    result = {}
    for name, tensor in wanted.items():
        # Files from before torch counted the batches lack the counts.
        if name.endswith("num_batches_tracked"):
            continue
        if name not in tensors or tensors[name].shape != tensor.shape:
            result[name] = tensor
    return result


def misfit_error(
    name: str, tensors: Mapping[str, Tensor], missing: Mapping[str, Tensor], total: int
) -> InputError:
    """The error for weights that do not fit, in three lines: found, expected, how to fix it.

    Args:
        name: of the encoder.
        tensors: that were found.
        missing: tensors of the encoder that are not among them; at least one.
        total: number of tensors of the encoder.
    """
    largest = max(tensors, key=lambda name: tensors[name].dim())  # counters have no dimension
    key, wanted = next(iter(missing.items()))
    there = "which is missing"
    if key in tensors:
        there = f"which has the shape {tuple(tensors[key].shape)} there"
    return InputError(
        f"does not fit the encoder {name!r}: it has {len(tensors)} tensors, such as {largest} of"
        f" shape {tuple(tensors[largest].shape)}\n"
        f"expected {total} tensors, of which {len(missing)} do not fit, such as {key} of shape"
        f" {tuple(wanted.shape)}, {there}\n"
        f"give weights of {name!r}, or name the encoder that these weights belong to"
    )
