"""Networks as folders and on the Hugging Face hub: weights, the arguments they are built with,
class names. No code, no pickle.
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
DESCRIPTIONS = (CONFIG, "model.json")  # of `save_pretrained`, and of a training run's checkpoint
FORMAT = 1
FILES = [*DESCRIPTIONS, WEIGHTS]
# Arguments of the builders that only their caller may give, never a file: they read other files,
# download, or build other networks.
NOT_STORED = ("match", "like", "match_size", "features_only")
# What the network began with is in the stored weights, and may be gone, or a download.
DROPPED = ("encoder_weights", "weights")
# What a description calls a network -> the function that builds it from the arguments beside;
# filled where those functions are.
BUILDERS: dict[str, Callable[..., nn.Module]] = {}


class _Pretrained(
    PyTorchModelHubMixin,
    library_name="kanseg",
    license="mit",
    tags=["kanseg", "kolmogorov-arnold-networks"],
):
    """`save_pretrained`, `push_to_hub` and `from_pretrained` for networks that `kanseg.create_...`
    made.
    """

    description: dict[str, Any] | None = None
    class_names: tuple[str, ...] | None = None
    changed: str | None = None  # what was done to the network that a description cannot log

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write config.json (the arguments, class names, preprocessing) and model.safetensors;
        nothing is touched where that is refused.

        Args:
            save_directory: the folder.
            options: of `huggingface_hub.ModelHubMixin.save_pretrained` (repo_id, push_to_hub, ...).

        Raises:
            InputError: a network that its description does not build: one that was put together by
                hand, or changed since (layers, activations, dilation, eps, ...; hooks are not
                looked at, and not stored); one whose weights are offloaded; weights that are NaN
                or infinite.
        """
        self._stored()
        name = first_non_finite(self.state_dict())
        if name is not None:
            raise InputError(f"{name} holds values that are NaN or infinite: nothing is stored")
        if Path(save_directory).is_file():
            raise InputError(f"{save_directory} is a file: name a folder")
        return super().save_pretrained(save_directory, **options)

    def _stored(self) -> str:
        """The text of config.json."""
        if self.description is None:
            raise InputError(
                "only a network as kanseg.create_model, create_classifier or create_encoder made it"
                " knows the arguments to store; use torch.save"
            )
        changes = [
            module.changed
            for module in self.modules()
            if isinstance(module, _Pretrained) and module.changed is not None
        ]
        misfit = changes[0] if changes else _misfit(self)
        if misfit is not None:
            raise InputError(
                f"the network is not the one that was built ({misfit}): fuse what is being"
                " fine-tuned; else store its weights by torch.save"
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
                f"the network was built with an argument that is no plain value ({error}): {cure}"
            ) from None

    def _save_pretrained(self, save_directory: Path) -> None:
        """config.json and model.safetensors, each written completely or not at all."""
        text = self._stored()
        weights = {
            name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()
        }
        with atomic_write(save_directory / WEIGHTS) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        atomic_write_text(save_directory / CONFIG, text)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any):
        """`kanseg.from_pretrained`, and a TypeError where that is another kind of network."""
        model = from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise TypeError(f"{source} holds a {type(model).__name__}, not a {cls.__name__}")
        return model


def described(model: nn.Module, kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The model, knowing what it was built with."""
    try:
        kept = deepcopy(dict(arguments))
    except (TypeError, RuntimeError):  # parts that cannot be copied cannot be stored either
        kept = dict(arguments)
    model.description = {"kanseg": FORMAT, kind: kept}
    model._hub_mixin_config = (
        None  # the mixin's own idea of a config, the constructor's parts, cannot be stored
    )
    return model


def _kind(description: Mapping[str, Any]) -> str:
    return next(kind for kind in BUILDERS if kind in description)


def _arguments(description: Mapping[str, Any]) -> dict[str, Any]:
    """Of the builder, without what the encoder began with."""
    return stored_arguments(description[_kind(description)])


def stored_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a builder as they may come from a file: without `encoder_weights`.

    Raises:
        ValueError: an argument that no file may give, or a number that no network has.
    """
    for key in NOT_STORED:
        if key in arguments:
            raise ValueError(f"a stored network cannot have the argument {key!r}")
    _check_numbers(arguments)
    kept = {key: value for key, value in arguments.items() if key not in DROPPED}
    if kept.get("basis") != "none":
        kept.setdefault("share", "edge")  # what networks had before they stored it
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
        raise ValueError("a stored network cannot have an option that is no finite number")


def _built(description: Mapping[str, Any]) -> nn.Module:
    return BUILDERS[_kind(description)](**_arguments(description))


def build_for(build: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> nn.Module:
    """The network that `build` makes from arguments that came with the weights, in which they are
    loaded.

    It is built without memory first, and for real only if the weights fit: arguments that somebody
    else wrote may ask for terabytes, or for layers without end.

    Raises:
        InputError: arguments that build no network, or weights of other names, shapes or types.
    """
    # Options go through all layers and other libraries, and each of these raises what comes for
    # one that makes no sense (AttributeError, KeyError, ZeroDivisionError, AssertionError).
    try:
        with torch.device("meta"), _at_most(1000 + 4 * len(weights)):
            twin = build()
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise InputError(f"the network cannot be built: {_line(error)}") from None
        twin = None  # a few encoders of other libraries need their weights to be built
    except Exception as error:
        raise InputError(f"the network cannot be built: {_line(error)}") from None
    if twin is not None:
        _load(twin, weights, assign=True)  # copies into tensors without memory warn
    try:
        model = build()
    except Exception as error:
        raise InputError(f"the network cannot be built: {_line(error)}") from None
    _load(model, weights)
    return model


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """InputError when modules register more parameters than that: the end of a network of a
    million layers.
    """
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
    """load_state_dict; InputError for other names, shapes or kinds of numbers (integers for
    floats, which torch would convert).
    """
    for name, value in model.state_dict().items():
        stored = weights.get(name)
        if stored is not None and _number_kind(stored) != _number_kind(value):
            raise InputError(
                f"{WEIGHTS} does not fit the network: {name} holds {stored.dtype}, not"
                f" {value.dtype}"
            )
    # modules may read what they are given, and fail in their own ways
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
    # The format is read by a library that knows torch's types by name, and raises SafetensorError,
    # KeyError, ValueError, RuntimeError or OverflowError for a header that lies.
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# The same in evaluation: SyncBatchNorm is what networks are turned into for several processes.
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# What a module does in training only, and so is no part of the function that is stored.
_TRAINING_ONLY = ("training", "momentum", "p", "inplace", "drop_prob", "grad_checkpointing")


def _misfit(model: nn.Module) -> str | None:
    """The first thing in which a network differs from the one that its description builds: a
    tensor, the class of a part, one of its settings; None where there is none, or building fails.
    """
    twin = _twin(model)
    if twin is None:
        return None
    ours, theirs = (
        {name: tuple(value.shape) for name, value in each.state_dict().items()}
        for each in (model, twin)
    )
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            return f"{name}: {ours.get(name)}, built as {theirs.get(name)}"
    parts, built = dict(model.named_modules()), dict(twin.named_modules())
    for name in {**parts, **built}:
        difference = _difference(parts.get(name), built.get(name))
        if difference is not None:
            return f"{name or 'the network'}: {difference}"
    return None


def _twin(model: nn.Module) -> nn.Module | None:
    """A network built from the description of another, without weights where it can be."""
    for device in ("meta", "cpu"):  # some encoders of other libraries need values to be built
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]):
                return _built(model.description)
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            continue
    return None


def _difference(part: nn.Module | None, built: nn.Module | None) -> str | None:
    """In what a part of a network differs from the same part as built; None where in nothing that
    can be seen: classes, numbers and names, replaced methods.
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
    """InputError unless the class names are as many strings as the network has classes; of one
    logit, two.
    """
    names, count = description["class_names"], description[_kind(description)].get("classes")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: class_names must be a list of names, got {names!r:.80}")
    if count is not None and len(names) not in ({1, 2} if count == 1 else {count}):
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
    """A network with its weights, in evaluation mode.

    Args:
        source: a folder written by `save_pretrained`, a checkpoint of a training run
            ("runs/x/best"), or a name on the hub ("user/name").
        download: whether to ask the hub; without it a name must be in the local cache already.
        revision, token, cache_dir: of the hub.

    Raises:
        InputError: nothing there, not a network of ours, or weights that do not fit it.
    """
    folder = find_folder(
        source, download=download, revision=revision, token=token, cache_dir=cache_dir
    )
    return read_network(folder, read_description(folder))


def read_description(folder: Path) -> dict[str, Any]:
    """What a folder says of its network."""
    path = next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder} has no {' or '.join(DESCRIPTIONS)}")
    try:
        description = read_json(path)
    except InputError as error:
        raise InputError(f"damaged: {error}") from None
    if not isinstance(description, dict) or not any(
        isinstance(description.get(kind), dict) for kind in BUILDERS
    ):
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
    """The network that a folder holds."""
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
    """A hint on what a network was built with, whose default was another one once."""
    description = getattr(network, "description", {})
    share = next(
        (each.get("share") for each in description.values() if isinstance(each, dict)), None
    )
    return "" if share is None else f" (that one has share={share!r})"


def load_encoder(encoder: nn.Module, source: str | Path | bool | None) -> None:
    """Give an encoder the weights of the encoder in another network of ours; None leaves it as it
    is.

    Args:
        encoder: with `in_channels`; images of another number of channels are a matter of the
            other's `set_in_channels`.
        source: as of `from_pretrained`.

    Raises:
        InputError: nothing there, a network without an encoder of ours, or one of other shapes (the
            first that differs is named).
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
    theirs, ours = body.state_dict(), encoder.state_dict()
    for name in dict.fromkeys([*ours, *theirs]):
        stored, wanted = (
            tuple(each[name].shape) if name in each else "nothing" for each in (theirs, ours)
        )
        if stored != wanted:
            raise InputError(
                f"the encoder in {folder} does not fit: {name} has {stored} there and {wanted}"
                f" here; build both with the same name and options{_share_of(other)}"
            )
    encoder.load_state_dict(theirs)


def first_non_finite(tensors: Mapping[str, Any]) -> str | None:
    """Name of the first tensor that holds a NaN or an infinity; None where there is none."""
    for name, value in tensors.items():
        floats = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        if floats and not torch.isfinite(value).all():
            return name
    return None


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """InputError for weights that hold NaN or infinite values: every prediction would be
    meaningless.
    """
    name = first_non_finite(weights)
    if name is not None:
        raise InputError(
            f"{path}: {name} holds values that are NaN or infinite, so the network cannot be used;"
            " take another checkpoint"
        )


def find_folder(source: str | Path, *, download: bool = False, **hub: Any) -> Path:
    """The folder itself, a run's best checkpoint, or where the hub's files lie on this machine;
    InputError where there is none.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(f"expected a folder or a name on the hub, got {source!r}")
    folder = Path(source)
    if folder.is_file():
        raise InputError(f"{source} is a file: name the folder that holds it")
    if folder.is_dir():
        return folder / "best" if (folder / "best").is_dir() else folder
    try:
        return Path(
            snapshot_download(
                str(source), allow_patterns=FILES, local_files_only=not download, **hub
            )
        )
    except HFValidationError:
        raise InputError(
            f"{source} is no folder, and no name on the hub such as 'user/name'"
        ) from None
    except LocalEntryNotFoundError:
        cure = "the hub could not be reached" if download else "download=True asks the hub for it"
        raise InputError(
            f"{source} is no folder, and not in the local cache of the hub; {cure}"
        ) from None
    except HfHubHTTPError as error:
        raise InputError(
            f"{source}: the hub refuses it: {' '.join(str(error).split())[:200]}"
        ) from None
