"""Names and options become networks here, and nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from kanseg.bases import BASES
from kanseg.bases import check_options as check_basis_options
from kanseg.encoders import ENCODERS, Encoder
from kanseg.layers.blocks import Conv, kan_conv
from kanseg.layers.kan_conv import KANConv2d
from kanseg.models.segmentation import MODELS, SegmentationModel
from kanseg.registry import Registry, nearest

GEOMETRY = {"groups", "padding_mode", "device", "dtype"}
CONV_OPTIONS = [p.name for p in inspect.signature(KANConv2d.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in GEOMETRY]
CONV_OPTIONS += ["padding_mode"]


def create_model(
    name: str,
    in_channels: int = 3,
    classes: int = 2,
    *,
    basis: str = "gram",
    stem: Mapping[str, object] | None = None,
    aux_params: dict[str, object] | None = None,
    **options: object,
) -> SegmentationModel:
    """A segmentation network by name: (B, in_channels, H, W) -> raw logits (B, classes, H, W), any H and W.

    Args:
        name: one of `kanseg.list_models()`.
        in_channels: channels of the picture.
        classes: logits a pixel (1 for a binary task with a sigmoid).
        basis: one of `kanseg.list_bases()`, for every convolution; "none" gives the same net of plain convolutions.
        stem: options that differ for the first convolution, the one that reads the picture, such as
            {"basis": "bspline", "grid_range": [-3, 3]}.
        aux_params: {"classes": n, "pooling": "avg", "dropout": 0.2} adds a classification head; the net then returns
            (masks, labels), as in segmentation_models.pytorch.
        options: of the network (width, depth, ...), of KANConv2d (inner_channels, norm, activation, base_activation, dropout) and of the
            basis (degree, grid_size, ...).

    Raises:
        ValueError: an unknown name or option; the message lists the known ones.
    """
    parts = _parts(MODELS, name, basis, stem, options)
    return MODELS[name](in_channels, classes, aux_params=aux_params, **parts)


def create_encoder(
    name: str, in_channels: int = 3, *, basis: str = "gram", stem: Mapping[str, object] | None = None, **options: object
) -> Encoder:
    """An encoder by name: (B, in_channels, H, W) -> depth + 1 features; `.out_channels`, `.output_stride`.

    Arguments as of `create_model`; `depth` is the number of halvings.
    """
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


def _parts(registry: Registry[Callable], name: str, basis: str, stem: Mapping[str, object] | None, options: dict[str, object]) -> dict[str, object]:
    """Sort the options into those of the builder and those of the convolution, and build `conv` and `stem`."""
    known = [p.name for p in inspect.signature(registry[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    own = {key: value for key, value in options.items() if key in known}
    rest = {key: value for key, value in options.items() if key not in known}
    conv = _conv(basis, rest, own_options=known)
    if stem is None:
        return {"conv": conv, "stem": conv, **own}
    shared = {key: value for key, value in rest.items() if key in CONV_OPTIONS and key != "inner_channels"}
    different = {key: value for key, value in stem.items() if key != "basis"}
    return {"conv": conv, "stem": _conv(str(stem.get("basis", basis)), shared | different, own_options=[]), **own}


def _conv(basis: str, options: dict[str, object], *, own_options: list[str]) -> Conv:
    """KANConv2d with its basis and options; an option that neither has is a ValueError."""
    basis_options = {key: value for key, value in options.items() if key not in CONV_OPTIONS}
    conv_options = {key: value for key, value in options.items() if key in CONV_OPTIONS}
    if basis == "none":
        if basis_options:
            raise ValueError(f"basis 'none' is the plain convolution; it has no option {', '.join(map(repr, basis_options))}")
        return kan_conv(basis="none", **conv_options)
    settings = [*(o for o in own_options if o not in ("conv", "stem", "aux_params")), *CONV_OPTIONS]
    for key in basis_options:
        guess = nearest(key, settings)
        if guess:
            raise ValueError(f"unknown option {key!r}{guess}")
    check_basis_options(basis, basis_options)
    return kan_conv(basis=basis, **conv_options, **basis_options)
