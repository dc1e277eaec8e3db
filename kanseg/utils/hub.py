"""Save and load networks in folders and on the Hugging Face hub: weights, constructor arguments and
class names, without code or pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from kanseg.utils.changes import first_change, state_shapes
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write, atomic_write_text
from kanseg.utils.reading import LARGEST, read_json
from kanseg.utils.text import one_line
from kanseg.utils.weights import WEIGHTS, build_for, check_finite, first_non_finite, read_tensors

CONFIG = "config.json"
DESCRIPTIONS = (CONFIG, "model.json")  # written by `save_pretrained`, and by a training run
FORMAT = 1
FILES = [*DESCRIPTIONS, WEIGHTS]
# Arguments that a file must not contain: they read other files, download, or build other networks.
NOT_STORED = ("match", "like", "match_size", "features_only")
# Sources of initial weights. The stored weights replace them, and the source may not exist.
DROPPED = ("encoder_weights", "weights")
# Key in a description -> function that builds the network from the arguments under that key. The
# modules of these functions register them.
BUILDERS: dict[str, Callable[..., nn.Module]] = {}


class _Pretrained(
    PyTorchModelHubMixin,
    library_name="kanseg",
    license="mit",
    tags=["kanseg", "kolmogorov-arnold-networks"],
):
    """Adds `save_pretrained`, `push_to_hub` and `from_pretrained` to the networks that
    `kanseg.create_...` builds.
    """

    description: dict[str, Any] | None = None
    class_names: tuple[str, ...] | None = None
    changed: str | None = None  # a change of the network that the description cannot express

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write config.json (arguments, class names, preprocessing) and model.safetensors.

        Args:
            save_directory: the folder.
            options: of `huggingface_hub.ModelHubMixin.save_pretrained` (repo_id, push_to_hub, ...).

        Raises:
            InputError: the stored arguments do not build this network, because it was assembled by
                hand or changed since (layers, activations, dilation, eps, ...; hooks are neither
                checked nor stored); or its weights are offloaded, NaN or infinite. No file is
                written.
        """
        self._config_text()
        name = first_non_finite(self.state_dict())
        if name is not None:
            raise InputError(f"{name} has NaN or infinite values; nothing was saved")
        if Path(save_directory).is_file():
            raise InputError(f"{save_directory} is a file; give a folder")
        return super().save_pretrained(save_directory, **options)

    def _config_text(self) -> str:
        """The text of config.json."""
        if self.description is None:
            raise InputError(
                "only networks from kanseg.create_model, create_classifier or create_encoder know"
                " their arguments; use torch.save"
            )
        change = None
        for module in self.modules():
            if isinstance(module, _Pretrained) and change is None:
                change = module.changed
        if change is None:
            rebuilt = _rebuild(self)
            if rebuilt is not None:
                change = first_change(self, rebuilt)
        if change is not None:
            raise InputError(
                f"the network was changed after it was built ({change}); fuse fine-tuned layers, or"
                " save its weights with torch.save"
            )
        absent = [name for name, value in self.state_dict().items() if value.is_meta]
        if absent:
            raise InputError(
                f"{absent[0]} is on the device meta and has no values; load offloaded weights first"
            )
        description = dict(self.description)
        if self.class_names is not None:
            description["class_names"] = list(self.class_names)
            _check_names(description, "class_names")
        try:
            return json.dumps(description, indent=1)
        except TypeError as error:
            raise InputError(
                f"the network has an argument that is not a plain value ({error}); give norms,"
                " activations and external encoders by name, and numbers as Python numbers"
            ) from None

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write config.json and model.safetensors, each atomically."""
        text = self._config_text()
        weights = {}
        for name, value in self.state_dict().items():
            weights[name] = value.detach().cpu().contiguous()
        with atomic_write(save_directory / WEIGHTS) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        atomic_write_text(save_directory / CONFIG, text)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any):
        """`kanseg.from_pretrained`; TypeError if the folder holds another kind of network."""
        model = from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise TypeError(f"{source} holds a {type(model).__name__}, not a {cls.__name__}")
        return model


def described(model: nn.Module, kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Record the arguments of its builder in a model, and return the model."""
    try:
        kept = deepcopy(dict(arguments))
    except (TypeError, RuntimeError):  # parts that cannot be copied cannot be stored either
        kept = dict(arguments)
    model.description = {"kanseg": FORMAT, kind: kept}
    # The mixin's own config holds the parts given to the constructor, which cannot be stored.
    model._hub_mixin_config = None
    return model


def _kind(description: Mapping[str, Any]) -> str:
    return next(kind for kind in BUILDERS if kind in description)


def stored_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments of a builder from a file, and remove those of initial weights.

    Raises:
        ValueError: an argument that a file must not contain, or a number that no network has.
    """
    for key in NOT_STORED:
        if key in arguments:
            raise ValueError(f"a stored network cannot have the argument {key!r}")
    _check_numbers(arguments)
    kept = {key: value for key, value in arguments.items() if key not in DROPPED}
    if kept.get("basis") != "none":
        kept.setdefault("share", "edge")  # networks stored before the option existed
    return kept


def _check_numbers(value: Any) -> None:
    """ValueError for an integer beyond 64 bits, a number that is not finite, or a deep nesting."""
    if isinstance(value, Mapping):
        for each in value.values():
            _check_numbers(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_numbers(each)
    elif isinstance(value, (int, float)) and not -LARGEST < value < LARGEST:
        raise ValueError("a stored network cannot have an option that is not a finite number")


def _build(description: Mapping[str, Any]) -> nn.Module:
    kind = _kind(description)
    return BUILDERS[kind](**stored_arguments(description[kind]))


def _rebuild(model: nn.Module) -> nn.Module | None:
    """Build a network from the description of another, on the meta device if possible."""
    for device in ("meta", "cpu"):  # some external encoders cannot be built on the meta device
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]):
                return _build(model.description)
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            continue
    return None


def _check_names(description: Mapping[str, Any], where: object) -> None:
    """InputError unless there is a name for each class of the network. A network with one logit may
    have two names.
    """
    names, count = description["class_names"], description[_kind(description)].get("classes")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: class_names must be a list of names, got {names!r:.80}")
    is_binary = count == 1 and len(names) == 2
    if count is not None and len(names) != count and not is_binary:
        raise InputError(f"{where}: the network has {count} classes, but {len(names)} names")


def from_pretrained(
    source: str | Path,
    *,
    download: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> nn.Module:
    """Load a network with its weights, in evaluation mode.

    Args:
        source: a folder written by `save_pretrained`, a checkpoint of a training run
            ("runs/x/best"), or a name on the hub ("user/name").
        download: download from the hub; without it, the name must be in the local cache.
        revision, token, cache_dir: as of `huggingface_hub.snapshot_download`.

    Raises:
        InputError: no such folder or name, not a network of kanseg, or weights that do not fit.
    """
    folder = find_folder(
        source, download=download, revision=revision, token=token, cache_dir=cache_dir
    )
    return read_network(folder, read_description(folder))


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check the description of the network in a folder."""
    path = next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder} has no {' or '.join(DESCRIPTIONS)}")
    try:
        description = read_json(path)
    except InputError as error:
        raise InputError(f"damaged: {error}") from None
    is_known = isinstance(description, dict) and any(
        isinstance(description.get(kind), dict) for kind in BUILDERS
    )
    if not is_known:
        raise InputError(
            f"{path} does not describe a kanseg network (it has none of {', '.join(BUILDERS)})"
        )
    if description.get("kanseg") != FORMAT:
        raise InputError(
            f"{path} has format {description.get('kanseg')!r}, but this version of kanseg reads"
            f" {FORMAT}; use the version that wrote it"
        )
    if "class_names" in description:
        _check_names(description, path)
    return description


def read_network(folder: Path, description: Mapping[str, Any]) -> nn.Module:
    """Build the network in a folder and load its weights."""
    weights = read_tensors(folder / WEIGHTS)
    check_finite(weights, folder / WEIGHTS)
    try:
        model = build_for(partial(_build, description), weights)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    kind = _kind(description)
    model.description = {**description, kind: stored_arguments(description[kind])}
    if "class_names" in description:
        model.class_names = tuple(description["class_names"])
    return model.eval()


def _share_hint(network: nn.Module) -> str:
    """A hint at the option `share` of a network, whose default has changed."""
    for arguments in getattr(network, "description", {}).values():
        if isinstance(arguments, dict) and arguments.get("share") is not None:
            return f" (that one has share={arguments['share']!r})"
    return ""


def load_encoder(encoder: nn.Module, source: str | Path | bool | None) -> None:
    """Load the weights of the encoder of another kanseg network.

    Args:
        encoder: receives the weights, adapted to its `in_channels`.
        source: as of `from_pretrained`; None does nothing.

    Raises:
        InputError: there is no network, it has no kanseg encoder, or a tensor has another shape
            (the message names the first).
    """
    if source is None:
        return
    if isinstance(source, bool):
        raise InputError(
            "this encoder has no pretrained weights to download; give the folder of a kanseg"
            f" network, got {source!r}"
        )
    try:
        folder = find_folder(source)
        other = read_network(folder, read_description(folder))
    except InputError as error:
        raise InputError(
            f"no pretrained weights of a kanseg encoder in {str(source)!r}: {error}"
        ) from None
    body = getattr(other, "encoder", other)
    if not hasattr(body, "set_in_channels"):
        raise InputError(
            f"{folder} holds a {type(other).__name__}, which has no kanseg encoder to load"
        )
    body.set_in_channels(encoder.in_channels)
    stored, wanted = state_shapes(body), state_shapes(encoder)
    for name in {**wanted, **stored}:
        if stored.get(name) != wanted.get(name):
            raise InputError(
                f"the encoder in {folder} does not fit: {name} has"
                f" {stored.get(name, 'nothing')} there and {wanted.get(name, 'nothing')} here;"
                f" build both with the same name and options{_share_hint(other)}"
            )
    encoder.load_state_dict(body.state_dict())


def find_folder(source: str | Path, *, download: bool = False, **hub: Any) -> Path:
    """Find the folder of a network: the folder itself, the best checkpoint of a run, or the local
    copy of files from the hub; InputError if there is none.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(f"expected a folder or a name on the hub, got {source!r}")
    folder = Path(source)
    if folder.is_file():
        raise InputError(f"{source} is a file; give the folder that holds it")
    if (folder / "best").is_dir():
        return folder / "best"
    if folder.is_dir():
        return folder
    try:
        path = snapshot_download(
            str(source), allow_patterns=FILES, local_files_only=not download, **hub
        )
        return Path(path)
    except HFValidationError:
        raise InputError(
            f"{source} is not a folder, and not a name on the hub such as 'user/name'"
        ) from None
    except LocalEntryNotFoundError:
        reason = f"kanseg.from_pretrained({str(source)!r}, download=True) downloads it"
        if download:
            reason = "the hub could not be reached"
        raise InputError(
            f"{source} is not a folder, and not in the local cache of the hub; {reason}"
        ) from None
    except HfHubHTTPError as error:
        raise InputError(f"{source}: the hub refuses it: {one_line(error, 200)}") from None
