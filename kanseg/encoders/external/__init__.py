"""Encoders of segmentation_models.pytorch and timm, with the interface of our encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from kanseg.encoders.external.encoder import ExternalEncoder
from kanseg.encoders.external.smp import (
    find_smp_weights,
    import_encoders,
    known_smp_weights,
    smp_encoder,
)
from kanseg.encoders.external.timm import (
    TIMM_NAME,
    find_timm_weights,
    import_timm,
    known_timm_weights,
    timm_encoder,
    timm_statistics,
)
from kanseg.encoders.external.weights import (
    HUB_NAME,
    IMAGENET,
    EncoderWeights,
    HubFile,
    ImageStatistics,
    hub_weights,
    local_weights,
    misfit_error,
    misfits,
    read_encoder_weights,
    stored_statistics,
)
from kanseg.encoders.pyramid import ENCODERS
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

__all__ = [
    "EncoderWeights",
    "ExternalEncoder",
    "ImageStatistics",
    "external_encoder",
    "find_encoder_weights",
    "full_encoder_name",
    "is_external",
    "stored_statistics",
]

Weights = str | Path | bool | None
BODY = "encoder.body."  # where the networks of kanseg have the weights of an external encoder
ORIGINS: dict[str, Callable[..., ExternalEncoder]] = {"smp": smp_encoder, "timm": timm_encoder}
FIND: dict[str, Callable[..., HubFile | None]] = {
    "smp": find_smp_weights,
    "timm": find_timm_weights,
}
KNOWN: dict[str, Callable[[str], list[str]]] = {
    "smp": known_smp_weights,
    "timm": known_timm_weights,
}


def external_encoder(
    name: str, in_channels: int = 3, *, depth: int = 5, weights: Weights = None, **options: object
) -> ExternalEncoder:
    """An encoder of another library: (B, in_channels, H, W) -> depth + 1 features.

    Args:
        name: "smp-NAME" for an encoder of segmentation_models.pytorch ("smp-resnet34"), "timm-NAME"
            for a model of timm ("timm-convnext_tiny").
        in_channels: channels of the image.
        depth: number of halvings, 1 to 5.
        weights: pretrained weights, as of `find_encoder_weights`; None for random weights. For
            images of 1 channel the first convolution is summed over its 3 channels, for other
            numbers it is repeated and scaled by 3 / in_channels.
        options: options of the model, for "timm-" and "smp-tu-".

    Raises:
        ValueError: an unknown name or option, a depth out of range, or a model without a feature of
            that depth.
        InputError: weights that cannot be found, read, or do not fit.
        ImportError: the library is not installed.
    """
    origin, _, rest = name.partition("-")
    if origin not in ORIGINS or not rest:
        raise ValueError(f"the name of an external encoder is smp-NAME or timm-NAME, got {name!r}")
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= 5:
        raise ValueError(f"depth (halvings of the image) must be 1 to 5, got {depth!r}")
    build = partial(ORIGINS[origin], rest, in_channels, depth)
    if weights is None:
        return build(None, options)
    found = find_encoder_weights(name, weights)
    tensors = read_encoder_weights(found.path)
    try:
        if not any(key.startswith(BODY) for key in tensors):
            return build(tensors, options)
        encoder = build(None, options)
        _load_trained(encoder, tensors, rest)
    except InputError as error:
        raise InputError(f"{found.source}: {error}") from None
    return encoder


def _load_trained(encoder: ExternalEncoder, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load the encoder of a network of kanseg."""
    own = {}
    for key, tensor in tensors.items():
        if key.startswith("encoder."):
            own[key.removeprefix("encoder.")] = tensor
    wanted = encoder.state_dict()
    missing = misfits(own, wanted)
    if missing:
        raise misfit_error(name, own, missing, len(wanted))
    encoder.load_state_dict(own, strict=False)  # layers behind the last feature are not needed


def find_encoder_weights(name: str, weights: str | Path | bool) -> EncoderWeights:
    """Find pretrained weights of an external encoder, and the statistics of the images that it was
    trained on.

    Args:
        name: of the encoder, as of `external_encoder`.
        weights: "imagenet" or True for the library's default, another name of weights that the
            library has (a tag of timm), a file (safetensors or a state dict), a folder or training
            run, or a repository on the hub ("user/name"). What is not on this computer is
            downloaded.

    Raises:
        InputError: there are none, or they cannot be downloaded; the message says what was tried.
    """
    origin, _, rest = name.partition("-")
    place = FIND[origin](rest, weights)
    if place is not None:
        return hub_weights(place)
    if isinstance(weights, bool):
        known = KNOWN[origin](rest)
        raise InputError(_no_weights(rest, weights, known))
    found = local_weights(weights)
    if found is None and HUB_NAME.fullmatch(str(weights)):
        found = hub_weights(HubFile(str(weights)))
    if found is None:
        raise InputError(_no_weights(rest, weights, KNOWN[origin](rest)))
    if found.statistics is None:
        default = IMAGENET if origin == "smp" else timm_statistics(rest)
        found = EncoderWeights(found.path, found.source, default)
    return found


def _no_weights(name: str, weights: object, known: list[str]) -> str:
    return (
        f"no weights {weights!r} of the encoder {name!r}{nearest(str(weights), known)} (known:"
        f" {', '.join(known) or 'none'}; or give a file, a folder, or user/name of the hub)"
    )


def is_external(name: str) -> bool:
    """True for a name of `external_encoder`."""
    return name.partition("-")[0] in ORIGINS and "-" in name


def full_encoder_name(name: str) -> str:
    """The name of an encoder with its library: ours as it is, "smp-resnet34" for resnet34 and
    "timm-convnext_tiny" for tu-convnext_tiny or convnext_tiny.

    A name of several libraries means ours before that of SMP, and that before timm's.

    Raises:
        ValueError: no library has an encoder of this name; the message names the nearest.
    """
    if name in ENCODERS or is_external(name):
        return name
    smp_names = import_encoders().encoders
    if name in smp_names:
        return f"smp-{name}"
    timm = import_timm()
    rest = name.removeprefix("tu-")
    if TIMM_NAME.fullmatch(rest) and timm.is_model(rest.partition(".")[0]):
        return f"timm-{rest}"
    known = [*ENCODERS, *smp_names, *timm.list_models()]
    raise ValueError(
        f"unknown encoder {name!r}{nearest(rest, known)} (known: {', '.join(ENCODERS)}, and the"
        " encoders of segmentation_models.pytorch and timm)"
    )
