"""Store networks in folders and on the Hugging Face hub: weights, constructor arguments and class
names, without code or pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write, atomic_write_text
from kanseg.utils.reading import LARGEST, read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
DESCRIPTIONS = (CONFIG, "model.json")  # of `save_pretrained`, and of the checkpoint of a run
FORMAT = 1
FILES = [*DESCRIPTIONS, WEIGHTS]
# Arguments of the builders that a file must not contain: they read other files, download, or build
# other networks.
NOT_STORED = ("match", "like", "match_size", "features_only")
# Initial weights are part of the stored weights; their source may be gone, or a download.
DROPPED = ("encoder_weights", "weights")
# Key in a description -> the function that builds the network from the arguments under that key.
# The modules of these functions register them.
BUILDERS: dict[str, Callable[..., nn.Module]] = {}


class _Pretrained(
    PyTorchModelHubMixin,
    library_name="kanseg",
    license="mit",
    tags=["kanseg", "kolmogorov-arnold-networks"],
):
    """`save_pretrained`, `push_to_hub` and `from_pretrained` for the networks of
    `kanseg.create_...`.
    """

    description: dict[str, Any] | None = None
    class_names: tuple[str, ...] | None = None
    changed: str | None = None  # a change to the network that a description cannot express

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write config.json (arguments, class names, preprocessing) and model.safetensors. If that
        is refused, no file is touched.

        Args:
            save_directory: the folder.
            options: of `huggingface_hub.ModelHubMixin.save_pretrained` (repo_id, push_to_hub, ...).

        Raises:
            InputError: the description does not build this network, because it was assembled by
                hand or changed since (layers, activations, dilation, eps, ...; hooks are ignored,
                and not stored); its weights are offloaded, NaN or infinite.
        """
        self._config_text()
        name = first_non_finite(self.state_dict())
        if name is not None:
            raise InputError(f"{name} holds values that are NaN or infinite: nothing is stored")
        if Path(save_directory).is_file():
            raise InputError(f"{save_directory} is a file: name a folder")
        return super().save_pretrained(save_directory, **options)

    def _config_text(self) -> str:
        """The text of config.json."""
        if self.description is None:
            raise InputError(
                "only networks of kanseg.create_model, create_classifier or create_encoder know"
                " their arguments; use torch.save"
            )
        change = None
        for module in self.modules():
            if isinstance(module, _Pretrained) and change is None:
                change = module.changed
        change = change or _misfit(self)
        if change is not None:
            raise InputError(
                f"the network was changed after it was built ({change}): fuse fine-tuned layers, or"
                " store its weights by torch.save"
            )
        absent = [name for name, value in self.state_dict().items() if value.is_meta]
        if absent:
            raise InputError(
                f"{absent[0]} is on the device meta and has no values to store: bring offloaded"
                " weights back first"
            )
        description = dict(self.description)
        if self.class_names is not None:
            description["class_names"] = list(self.class_names)
            _check_names(description, "class_names")
        try:
            return json.dumps(description, indent=1)
        except TypeError as error:
            cure = "give norms and activations by name, other encoders too, numbers as Python's own"
            raise InputError(
                f"the network has an argument that is not a plain value ({error}): {cure}"
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
    """Record in a model the arguments of its builder, and return it."""
    try:
        kept = deepcopy(dict(arguments))
    except (TypeError, RuntimeError):  # parts that cannot be copied cannot be stored either
        kept = dict(arguments)
    model.description = {"kanseg": FORMAT, kind: kept}
    # The mixin's own config has the parts that the constructor was given, which cannot be stored.
    model._hub_mixin_config = None
    return model


def _kind(description: Mapping[str, Any]) -> str:
    return next(kind for kind in BUILDERS if kind in description)


def _arguments(description: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the builder in a description, without those of initial weights."""
    return stored_arguments(description[_kind(description)])


def stored_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments of a builder from a file, and remove `encoder_weights`.

    Raises:
        ValueError: an argument that a file must not contain, or a number that no network has.
    """
    for key in NOT_STORED:
        if key in arguments:
            raise ValueError(f"a stored network cannot have the argument {key!r}")
    _check_numbers(arguments)
    kept = {key: value for key, value in arguments.items() if key not in DROPPED}
    if kept.get("basis") != "none":
        kept.setdefault("share", "edge")  # of networks from before the option existed
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


def _built(description: Mapping[str, Any]) -> nn.Module:
    return BUILDERS[_kind(description)](**_arguments(description))


def build_for(build: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a network from arguments that came with the weights, and load them.

    It is built on the meta device first, and with memory only if the weights fit: arguments from
    elsewhere may ask for terabytes, or for millions of layers.

    Raises:
        InputError: arguments that build no network, or weights of other names, shapes or types.
    """
    # Options reach all layers and other libraries, which raise many kinds of errors for invalid
    # ones (AttributeError, KeyError, ZeroDivisionError, AssertionError).
    try:
        with torch.device("meta"), _at_most(1000 + 4 * len(weights)):
            twin = build()
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise InputError(f"the network cannot be built: {_line(error)}") from None
        twin = None  # a few external encoders need values to be built
    except Exception as error:
        raise InputError(f"the network cannot be built: {_line(error)}") from None
    if twin is not None:
        _load(twin, weights, assign=True)  # copies to the meta device would warn
    try:
        model = build()
    except Exception as error:
        raise InputError(f"the network cannot be built: {_line(error)}") from None
    _load(model, weights)
    return model


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """InputError if modules register more than `count` parameters, as millions of layers would."""
    seen = 0

    def register(module: nn.Module, name: str, parameter: object) -> None:
        nonlocal seen
        seen += 1
        if seen > count:
            raise InputError("it has many more parameters than the file has tensors")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def _load(model: nn.Module, weights: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Load a state dict; InputError for other names, shapes or kinds of numbers (torch would
    convert integers to floats).
    """
    for name, value in model.state_dict().items():
        stored = weights.get(name)
        if stored is not None and _number_kind(stored) != _number_kind(value):
            raise InputError(
                f"{WEIGHTS} does not fit the network: {name} holds {stored.dtype}, not"
                f" {value.dtype}"
            )
    # Modules may have their own code for loading, which raises many kinds of errors.
    try:
        model.load_state_dict(dict(weights), assign=assign)
    except Exception as error:
        raise InputError(f"{WEIGHTS} does not fit the network: {_line(error)}") from None


def _number_kind(value: Tensor) -> object:
    return "floats" if value.is_floating_point() else value.dtype


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        InputError: no such file, or not of that format.
    """
    if not path.is_file():
        raise InputError(f"{path} cannot be read: no such file")
    # safetensors raises SafetensorError, KeyError, ValueError, RuntimeError or OverflowError for an
    # invalid header.
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# The same in evaluation; training with several processes converts the others to SyncBatchNorm.
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Attributes that matter in training only, and so are not part of the stored function.
_TRAINING_ONLY = ("training", "momentum", "p", "inplace", "drop_prob", "grad_checkpointing")


def _misfit(model: nn.Module) -> str | None:
    """The first difference of a network from the one that its description builds: a tensor, the
    class of a module, or one of its settings. None if there is none, or building fails.
    """
    twin = _twin(model)
    if twin is None:
        return None
    ours, theirs = _shapes(model), _shapes(twin)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            return f"{name}: {ours.get(name)}, built as {theirs.get(name)}"
    parts, built = dict(model.named_modules()), dict(twin.named_modules())
    for name in {**parts, **built}:
        difference = _difference(parts.get(name), built.get(name))
        if difference is not None:
            return f"{name or 'the network'}: {difference}"
    return None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _twin(model: nn.Module) -> nn.Module | None:
    """A network built from the description of another, on the meta device if possible."""
    for device in ("meta", "cpu"):  # some external encoders need values to be built
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]):
                return _built(model.description)
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            continue
    return None


def _difference(part: nn.Module | None, built: nn.Module | None) -> str | None:
    """The difference of a module from the same module as built: its class, numbers and names, or
    a replaced method. None if there is none.
    """
    ours, theirs = _class_name(part), _class_name(built)
    if ours != theirs:
        return f"{ours}, built as {theirs}"
    own, other = vars(part), vars(built)
    for name, value in own.items():
        if name == "forward" and "_original_forward" in own:  # Accelerate's mixed precision
            continue
        if callable(value) and callable(getattr(type(part), name, None)):
            return f"its method {name} was replaced"
        comparable = name in other and not name.startswith("_") and name not in _TRAINING_ONLY
        if comparable and _is_plain(value) and _is_plain(other[name]) and value != other[name]:
            return f"{name}={value!r}, built with {other[name]!r}"
    return None


def _class_name(part: nn.Module | None) -> str:
    if part is None:
        return "nothing"
    kind = type(part)
    if kind in _BATCH_NORMS:
        return "BatchNorm"
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_plain(value: object) -> bool:
    """True for a number, a string, None, and lists of these."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _check_names(description: Mapping[str, Any], where: object) -> None:
    """InputError unless there is a class name for each class of the network; two for a single
    logit.
    """
    names, count = description["class_names"], description[_kind(description)].get("classes")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: class_names must be a list of names, got {names!r:.80}")
    allowed = {1, 2} if count == 1 else {count}
    if count is not None and len(names) not in allowed:
        raise InputError(
            f"{where}: the network has {count} classes, and there are {len(names)} names"
        )


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
        download: download from the hub; without it a name must be in the local cache.
        revision, token, cache_dir: of the hub.

    Raises:
        InputError: no such folder or name, not a network of kanseg, or weights that do not fit.
    """
    folder = find_folder(
        source, download=download, revision=revision, token=token, cache_dir=cache_dir
    )
    return read_network(folder, read_description(folder))


def read_description(folder: Path) -> dict[str, Any]:
    """The description of the network in a folder."""
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
            f"{path} describes no network of kanseg (none of {', '.join(BUILDERS)} in it)"
        )
    if description.get("kanseg") != FORMAT:
        raise InputError(
            f"{path} has format {description.get('kanseg')!r}, this kanseg reads {FORMAT}: use the"
            " version that wrote it"
        )
    if "class_names" in description:
        _check_names(description, path)
    return description


def read_network(folder: Path, description: Mapping[str, Any]) -> nn.Module:
    """Build the network in a folder and load its weights."""
    weights = read_tensors(folder / WEIGHTS)
    check_finite(weights, folder / WEIGHTS)
    try:
        model = build_for(partial(_built, description), weights)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    model.description = {**description, _kind(description): _arguments(description)}
    if "class_names" in description:
        model.class_names = tuple(description["class_names"])
    return model.eval()


def _share_of(network: nn.Module) -> str:
    """A hint with the option `share` of a network, whose default has changed."""
    for arguments in getattr(network, "description", {}).values():
        if isinstance(arguments, dict) and arguments.get("share") is not None:
            return f" (that one has share={arguments['share']!r})"
    return ""


def load_encoder(encoder: nn.Module, source: str | Path | bool | None) -> None:
    """Load the weights of the encoder in another network of kanseg; None does nothing.

    Args:
        encoder: with `in_channels`, to which the weights are adapted by `set_in_channels`.
        source: as of `from_pretrained`.

    Raises:
        InputError: no network there, one without an encoder of kanseg, or one of other shapes (the
            message names the first that differs).
    """
    if source is None:
        return
    if isinstance(source, bool):
        raise InputError(
            "there are no pretrained weights for this encoder by name: give the folder of a"
            f" network of ours, got {source!r}"
        )
    try:
        folder = find_folder(source)
        other = read_network(folder, read_description(folder))
    except InputError as error:
        raise InputError(
            f"no pretrained weights of an encoder of ours at {str(source)!r}: {error}"
        ) from None
    body = getattr(other, "encoder", other)
    if not hasattr(body, "set_in_channels"):
        raise InputError(
            f"{folder} holds a {type(other).__name__} without an encoder of ours, so it has no"
            " weights for one"
        )
    body.set_in_channels(encoder.in_channels)
    stored, wanted = _shapes(body), _shapes(encoder)
    for name in {**wanted, **stored}:
        if stored.get(name) != wanted.get(name):
            raise InputError(
                f"the encoder in {folder} does not fit: {name} has"
                f" {stored.get(name, 'nothing')} there and {wanted.get(name, 'nothing')} here;"
                f" build both with the same name and options{_share_of(other)}"
            )
    encoder.load_state_dict(body.state_dict())


def first_non_finite(tensors: Mapping[str, Any]) -> str | None:
    """Name of the first tensor with NaN or infinite values; None if there is none."""
    for name, value in tensors.items():
        floats = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        if floats and not torch.isfinite(value).all():
            return name
    return None


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """InputError for weights with NaN or infinite values, which make every prediction
    meaningless.
    """
    name = first_non_finite(weights)
    if name is not None:
        raise InputError(
            f"{path}: {name} holds values that are NaN or infinite, so the network cannot be used;"
            " take another checkpoint"
        )


def find_folder(source: str | Path, *, download: bool = False, **hub: Any) -> Path:
    """The folder itself, the best checkpoint of a run, or the local folder of files from the hub;
    InputError if there is none.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(f"expected a folder or a name on the hub, got {source!r}")
    folder = Path(source)
    if folder.is_file():
        raise InputError(f"{source} is a file: name the folder that holds it")
    if folder.is_dir():
        return folder / "best" if (folder / "best").is_dir() else folder
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
        cure = "the hub could not be reached" if download else "download=True asks the hub for it"
        raise InputError(
            f"{source} is not a folder, and not in the local cache of the hub; {cure}"
        ) from None
    except HfHubHTTPError as error:
        raise InputError(
            f"{source}: the hub refuses it: {' '.join(str(error).split())[:200]}"
        ) from None
