"""Encoders of segmentation_models.pytorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kanseg.encoders.external.encoder import ExternalEncoder
from kanseg.encoders.external.timm import (
    TIMM_NAME,
    build_with_weights,
    check_timm_name,
    check_timm_options,
    find_timm_weights,
)
from kanseg.encoders.external.weights import HubFile, misfit_error, misfits
from kanseg.utils.registry import nearest

COLORS = 3  # channels of the images that the encoders were trained on


def import_encoders() -> Any:
    """The encoders of segmentation_models.pytorch; ImportError that says how to install it."""
    try:
        from segmentation_models_pytorch import encoders
    except ModuleNotFoundError as error:
        raise ImportError(
            "encoders called smp-NAME need segmentation-models-pytorch: python -m pip install"
            " segmentation-models-pytorch"
        ) from error
    return encoders


def find_smp_weights(name: str, weights: str | bool) -> HubFile | None:
    """Where SMP has weights that it calls so; None if it has none."""
    _check_name(name)
    known = _known_weights(name)
    if name.startswith("tu-"):
        return find_timm_weights(name.removeprefix("tu-"), weights)
    if weights not in known:
        return None
    settings = known[weights]
    return HubFile(settings["repo_id"], ("model.safetensors",), settings["revision"])


def known_smp_weights(name: str) -> list[str]:
    """Names of weights of an encoder."""
    return list(_known_weights(name))


def _known_weights(name: str) -> Mapping[str, Any]:
    return import_encoders().encoders.get(name, {}).get("pretrained_settings") or {}


def smp_encoder(
    name: str,
    in_channels: int,
    depth: int,
    tensors: Mapping[str, Tensor] | None,
    options: dict[str, object],
) -> ExternalEncoder:
    """An encoder of segmentation_models.pytorch, with the tensors as its weights."""
    encoders = import_encoders()
    _check_name(name)
    if name in encoders.encoders:
        if options:
            raise ValueError(
                f"segmentation_models.pytorch ignores options of {name!r}, got {', '.join(options)}"
            )
        channels = in_channels if tensors is None else COLORS
        body = encoders.get_encoder(name, in_channels=channels, depth=depth, weights=None)
        if tensors is not None:
            _load(body, tensors, name)
            body.set_in_channels(in_channels, pretrained=True)
    else:
        check_timm_options(name, options)

        def build(*, pretrained: bool = False, **overlay: object) -> nn.Module:
            return encoders.get_encoder(
                name,
                in_channels=in_channels,
                depth=depth,
                weights=True if pretrained else None,
                **options,
                **overlay,
            )

        body = build_with_weights(build, name, tensors)
    channels = list(body.out_channels[1 : depth + 1])
    indices: list[int | None] = []
    for i, num_channels in enumerate(channels, start=1):
        indices.append(i if num_channels > 0 else None)
    return ExternalEncoder(body, indices=indices, channels=channels, in_channels=in_channels)


def _load(body: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load weights; InputError unless every tensor of the encoder is among them."""
    try:
        body.load_state_dict(dict(tensors))  # knows older names, and the classifier's
        return
    except (RuntimeError, KeyError):
        known = body.state_dict()
    missing = misfits(tensors, known)
    if missing:
        raise misfit_error(name, tensors, missing, len(known))
    body.load_state_dict({key: value for key, value in tensors.items() if key in known})


def _check_name(name: str) -> None:
    """Raise ValueError unless SMP has an encoder of this name."""
    if name.startswith("tu-"):
        check_timm_name(name.removeprefix("tu-"))
        return
    known = import_encoders().encoders
    if name not in known and not _is_renamed(name):
        raise ValueError(
            f"segmentation_models.pytorch has no encoder {name!r}{nearest(name, known)}"
        )


def _is_renamed(name: str) -> bool:
    """True for an old name in SMP that now means a timm model, such as "timm-resnest14d"."""
    if not name.startswith("timm-"):
        return False
    from timm import is_model

    rest = name.removeprefix("timm-")
    return bool(TIMM_NAME.fullmatch(rest)) and (is_model(rest) or is_model(f"tf_{rest}"))
