"""Names and options become networks here, and nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from kanseg.bases import BASES, list_basis_options
from kanseg.encoders import ENCODERS, Encoder
from kanseg.layers.blocks import Conv, kan_conv
from kanseg.layers.kan_conv import KANConv2d
from kanseg.models.matching import matched
from kanseg.models.segmentation import MODELS, SegmentationModel
from kanseg.registry import Registry, nearest

PER_LAYER = {"groups", "device", "dtype"}  # not options of a whole network
CONV_OPTIONS = [p.name for p in inspect.signature(KANConv2d.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in PER_LAYER]
# Curves for the colours: B-splines over three standard deviations of a normalised picture, without a bottleneck.
COLOUR_STEM = {"basis": "bspline", "grid_size": 8, "grid_range": (-3.0, 3.0), "inner_channels": None}

Stem = Mapping[str, object] | str | None
Like = Mapping[str, object] | nn.Module | None


def create_model(
    name: str,
    in_channels: int = 3,
    classes: int = 2,
    *,
    basis: str = "gram",
    stem: Stem = "auto",
    aux_params: dict[str, object] | None = None,
    match: str | None = None,
    like: Like = None,
    match_size: Sequence[int] = (256, 256),
    **options: object,
) -> SegmentationModel:
    """A segmentation network by name: (B, in_channels, H, W) -> raw logits (B, classes, H, W), any H and W.

    Args:
        name: one of `kanseg.list_models()`.
        in_channels: channels of the picture.
        classes: logits a pixel (1 for a binary task with a sigmoid).
        basis: one of `kanseg.list_bases()`, for every convolution; "none" gives the same net of plain convolutions.
        stem: the first convolution, the one that reads the picture: "auto" for B-splines of the colours (a plain convolution when the
            basis is "none"), None for the same as all others, or options that differ, such as
            {"basis": "rbf", "grid_range": [-3, 3]}.
        aux_params: {"classes": n, "pooling": "avg", "dropout": 0.2} adds a classification head; the net then returns
            (masks, labels), as in segmentation_models.pytorch.
        match: "params" or "macs": solve `width` so that the network has as many parameters, or multiply-adds for a picture of
            `match_size`, as `like`, within 2 %.
        like: a network, or the arguments in which it differs from this one: {"basis": "gram"} (see `kanseg.models.matching`).
        match_size: height and width of the picture.
        options: of the network (width, depth, ...), of KANConv2d (norm, activation, dropout, padding_mode; inner_channels, here 0.25 by
            default: a bottleneck of a quarter of the channels, None for full functions on every edge; base_activation, here
            "identity": activations stand between the layers already) and of the basis (degree, grid_size, ...).

    Raises:
        ValueError: an unknown name or option; the message names the nearest known one. A size that no width gives.
    """
    if match is not None or like is not None:
        given = {"name": name, "in_channels": in_channels, "classes": classes, "basis": basis, "stem": stem, "aux_params": aux_params, **options}
        return create_model(**matched(create_model, given | {"match": match, "like": like, "match_size": match_size}))
    parts = _parts(MODELS, name, basis, stem, options)
    return MODELS[name](in_channels, classes, aux_params=aux_params, **parts)


def create_encoder(
    name: str,
    in_channels: int = 3,
    *,
    basis: str = "gram",
    stem: Stem = "auto",
    match: str | None = None,
    like: Like = None,
    match_size: Sequence[int] = (256, 256),
    **options: object,
) -> Encoder:
    """An encoder by name: (B, in_channels, H, W) -> depth + 1 features; `.out_channels`, `.output_stride`.

    Arguments as of `create_model`; `depth` is the number of halvings.
    """
    if match is not None or like is not None:
        given = {"name": name, "in_channels": in_channels, "basis": basis, "stem": stem, **options}
        return create_encoder(**matched(create_encoder, given | {"match": match, "like": like, "match_size": match_size}))
    return ENCODERS[name](in_channels, **_parts(ENCODERS, name, basis, stem, options))


def list_models() -> list[str]:
    """Names for `create_model`."""
    return list(MODELS)


def list_encoders() -> list[str]:
    """Names for `create_encoder`."""
    return list(ENCODERS)


def list_bases() -> list[str]:
    """Names for the option `basis`; "none" is the plain convolution."""
    return [*BASES, "none"]


def _parts(registry: Registry[Callable], name: str, basis: str, stem: Stem, options: dict[str, object]) -> dict[str, object]:
    """Sort the options into those of the builder and those of the convolution, and build `conv` and `stem`."""
    parameters = inspect.signature(registry[name]).parameters.values()
    own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("conv", "stem", "aux_params")]
    shared = {"inner_channels": 0.25, "base_activation": "identity"} | {key: value for key, value in options.items() if key not in own}
    conv = _conv(basis, shared, network_options=own)
    return {"conv": conv, "stem": _stem(stem, basis, shared, conv), **{key: value for key, value in options.items() if key in own}}


def _stem(stem: Stem, basis: str, shared: dict[str, object], conv: Conv) -> Conv:
    """The first convolution: as all others, or with its own basis and the others' norm, activation and the like."""
    if stem is None or (stem == "auto" and basis == "none"):
        return conv
    if stem != "auto" and not isinstance(stem, Mapping):
        raise ValueError(f"stem must be 'auto', None or a mapping of options, got {stem!r}")
    own = dict(COLOUR_STEM if stem == "auto" else {"basis": basis, "inner_channels": None, **stem})
    common = {key: value for key, value in shared.items() if key in CONV_OPTIONS}
    return _conv(str(own.pop("basis")), common | own, network_options=[])


def _conv(basis: str, options: dict[str, object], *, network_options: list[str]) -> Conv:
    """KANConv2d with its basis and options; an option that nothing takes is a ValueError that names the nearest."""
    basis_options = [] if basis == "none" else list_basis_options(basis)
    for key in options:
        if key not in CONV_OPTIONS and key not in basis_options:
            guess = nearest(key, [*basis_options, *network_options, *CONV_OPTIONS])
            has = f"it has: {', '.join(basis_options)}" if basis_options else "it is the plain convolution"
            raise ValueError(f"unknown option {key!r}{guess} (basis {basis!r}: {has})")
    return kan_conv(basis=basis, **options)
