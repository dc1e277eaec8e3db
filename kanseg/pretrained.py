"""Networks as folders and on the Hugging Face hub: weights, the arguments they are built with, class names. No code, no pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kanseg.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
DESCRIPTIONS = (CONFIG, "model.json")  # of `save_pretrained`, and of a training run's checkpoint
FILES = [*DESCRIPTIONS, WEIGHTS]
# What a description calls a network -> the function that builds it from the arguments beside; filled where those functions are.
BUILDERS: dict[str, Callable[..., nn.Module]] = {}


class _Pretrained(PyTorchModelHubMixin, library_name="kanseg", license="mit", tags=["kanseg", "kolmogorov-arnold-networks"]):
    """`save_pretrained`, `push_to_hub` and `from_pretrained` for networks that `kanseg.create_...` made."""

    description: dict[str, Any] | None = None
    class_names: tuple[str, ...] | None = None

    def _save_pretrained(self, save_directory: Path) -> None:
        """config.json and model.safetensors, each written aside and then renamed."""
        if self.description is None:
            raise InputError("only a network as kanseg.create_model, create_classifier or create_encoder made it knows the arguments to store; use torch.save")
        description = dict(self.description)
        if self.class_names is not None:
            description["class_names"] = list(self.class_names)
        try:
            text = json.dumps(description, indent=1)
        except TypeError as error:
            raise InputError(f"the network was built with an argument that is no plain value ({error}): give norms and activations by name") from None
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        building = save_directory / f".{WEIGHTS}.tmp"
        save_file(weights, building, metadata={"format": "pt"})
        building.replace(save_directory / WEIGHTS)
        building = save_directory / f".{CONFIG}.tmp"
        building.write_text(text, encoding="utf-8")
        building.replace(save_directory / CONFIG)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any):
        """`kanseg.from_pretrained`, and a TypeError where that is another kind of network."""
        model = from_pretrained(source, **options)
        if not isinstance(model, cls):
            raise TypeError(f"{source} holds a {type(model).__name__}, not a {cls.__name__}")
        return model


def described(model: nn.Module, kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The model, knowing what it was built with."""
    model.description = {"kanseg": 1, kind: dict(arguments)}
    model._hub_mixin_config = None  # the mixin's own idea of a config, the constructor's parts, cannot be stored
    return model


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
        source: a folder written by `save_pretrained`, a checkpoint of a training run ("runs/x/best"), or a name on the hub ("user/name").
        download: whether to ask the hub; without it a name must be in the local cache already.
        revision, token, cache_dir: of the hub.

    Raises:
        InputError: nothing there, not a network of ours, or weights that do not fit it.
    """
    folder = find_folder(source, download=download, revision=revision, token=token, cache_dir=cache_dir)
    return read_network(folder, read_description(folder))


def read_description(folder: Path) -> dict[str, Any]:
    """What a folder says of its network."""
    path = next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder} has no {' or '.join(DESCRIPTIONS)}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not isinstance(description, dict) or not BUILDERS.keys() & description.keys():
        raise InputError(f"{path} describes no network of kanseg (none of {', '.join(BUILDERS)} in it)")
    return description


def read_network(folder: Path, description: Mapping[str, Any]) -> nn.Module:
    """The network that a folder holds."""
    kind = next(kind for kind in BUILDERS if kind in description)
    # what the encoder began with is in the weights already, and may be gone, or a download
    arguments = {key: value for key, value in description[kind].items() if key != "encoder_weights"}
    model = BUILDERS[kind](**arguments)
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / WEIGHTS} cannot be read: {' '.join(str(error).split())[:200]}") from None
    load_weights(model, weights, folder / WEIGHTS)
    model.description = {**description, kind: arguments}
    if "class_names" in description:
        model.class_names = tuple(description["class_names"])
    return model.eval()


def load_encoder(encoder: nn.Module, source: str | Path | bool | None) -> None:
    """Give an encoder the weights of the encoder in another network of ours; None leaves it as it is.

    Args:
        encoder: with `in_channels`; pictures of another number of channels are a matter of the other's `set_in_channels`.
        source: as of `from_pretrained`.

    Raises:
        InputError: nothing there, a network without an encoder of ours, or one of other shapes (the first that differs is named).
    """
    if source is None:
        return
    if isinstance(source, bool):
        raise InputError(f"there are no pretrained weights for this encoder by name: give the folder of a network of ours, got {source!r}")
    try:
        folder = find_folder(source)
        other = read_network(folder, read_description(folder))
    except InputError as error:
        raise InputError(f"no pretrained weights of an encoder of ours at {str(source)!r}: {error}") from None
    body = getattr(other, "encoder", other)
    if not hasattr(body, "set_in_channels"):
        raise InputError(f"{folder} holds a {type(other).__name__} without an encoder of ours, so it has no weights for one")
    body.set_in_channels(encoder.in_channels)
    theirs, ours = body.state_dict(), encoder.state_dict()
    for name in dict.fromkeys([*ours, *theirs]):
        stored, wanted = (tuple(each[name].shape) if name in each else "nothing" for each in (theirs, ours))
        if stored != wanted:
            raise InputError(f"the encoder in {folder} does not fit: {name} has {stored} there and {wanted} here; build both with the same name and options")
    encoder.load_state_dict(theirs)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """load_state_dict, with an InputError of one line."""
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise InputError(f"{path} does not fit the network: {' '.join(str(error).split())[:300]}") from None


def find_folder(source: str | Path, *, download: bool = False, **hub: Any) -> Path:
    """The folder itself, a run's best checkpoint, or where the hub's files lie on this machine; InputError where there is none."""
    folder = Path(source)
    if folder.is_dir():
        return folder / "best" if (folder / "best").is_dir() else folder
    try:
        return Path(snapshot_download(str(source), allow_patterns=FILES, local_files_only=not download, **hub))
    except HFValidationError:
        raise InputError(f"{source} is no folder, and no name on the hub such as 'user/name'") from None
    except LocalEntryNotFoundError:
        cure = "the hub could not be reached" if download else "download=True asks the hub for it"
        raise InputError(f"{source} is no folder, and not in the local cache of the hub; {cure}") from None
    except HfHubHTTPError as error:
        raise InputError(f"{source}: the hub refuses it: {' '.join(str(error).split())[:200]}") from None
