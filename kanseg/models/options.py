"""Options become the parts that a builder is handed: `conv`, `plain`, `stem`, `linear`, `local`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from kanseg.bases import list_basis_options
from kanseg.layers.blocks import Conv, kan_conv
from kanseg.layers.experts import ConvExperts
from kanseg.layers.kan_conv import KANConv2d
from kanseg.layers.linear import KANLinear
from kanseg.layers.local import KANLocal2d
from kanseg.models.flat import linear_layers
from kanseg.utils.registry import nearest

PER_LAYER = {"groups", "device", "dtype"}  # not options of a whole network
LINEAR_OPTIONS = [
    p.name
    for p in inspect.signature(KANLinear.__init__).parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.name not in PER_LAYER
]
CONV_OPTIONS = [
    p.name
    for p in inspect.signature(KANConv2d.__init__).parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.name not in PER_LAYER
]
PARTS = {
    "conv",
    "plain",
    "stem",
    "linear",
    "local",
    "encoder",
    "aux_params",
}  # what a builder is handed: `plain` is `conv` without functions
PLAIN_OPTIONS = ["norm", "activation", "padding_mode"]  # of plain convolutions before flat layers
# Curves for the colors: B-splines over three standard deviations of a normalized image, without
# a bottleneck.
COLOR_STEM = {
    "basis": "bspline",
    "grid_size": 8,
    "grid_range": (-3.0, 3.0),
    "inner_channels": None,
}

Stem = Mapping[str, object] | str | None


# What the functions of a network's convolutions are, unless the caller says otherwise
# (docs/study.md).
DEFAULT_SHARE = "channel"
PER_EDGE = ("inner_channels", "function_init")  # options that only functions of each edge have


def with_share(basis: str, options: Mapping[str, object], *, per_edge: bool) -> dict[str, object]:
    """The options of a network with `share` among them, so that a stored network tells it.

    Functions are shared by default, but not in networks that are made of functions of each edge,
    nor where an option is given that only these have.
    """
    if basis == "none" or "share" in options:
        return dict(options)
    per_edge = per_edge or any(key in options for key in PER_EDGE)
    return {**options, "share": "edge" if per_edge else DEFAULT_SHARE}


def check_counts(**numbers: object) -> None:
    """ValueError for the first that is no whole number from 1 on."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be at least 1 and a whole number, got {value!r}")


def conv_parts(
    build: Callable, basis: str, stem: Stem, options: dict[str, object]
) -> dict[str, object]:
    """Sort the options into those of the builder and those of the convolution, and build the parts
    that the builder takes.
    """
    parameters = inspect.signature(build).parameters.values()
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    own = [name for name in named if name not in PARTS]
    given = {key: value for key, value in options.items() if key not in own}
    shared = _layer_defaults(given) | given
    experts, top_k = shared.pop("experts", None), shared.pop("top_k", None)
    conv = _conv(basis, shared, network_options=[*own, "experts", "top_k"])
    plain = _conv(
        "none",
        {key: value for key, value in given.items() if key in CONV_OPTIONS},
        network_options=[],
    )
    parts = {
        "conv": _mixture(conv, experts, top_k),
        "plain": plain,
        "stem": _stem(stem, basis, shared, conv),
    }
    return {key: value for key, value in (parts | options).items() if key in named}


def _layer_defaults(given: Mapping[str, object]) -> dict[str, object]:
    """What a network sets for its layers, where the caller gives nothing else."""
    if given.get("share", "edge") == "edge":
        # Activations stand between the layers already.
        return {"inner_channels": 0.25, "base_activation": "identity"}
    if given.get("position") == "before_conv":
        return {"activation": None}
    return {}


def flat_parts(
    build: Callable, basis: str, stem: Stem, options: dict[str, object]
) -> dict[str, object]:
    """As `_parts`, for networks whose functions stand in flat layers: their convolutions, if any,
    are plain.
    """
    if stem not in ("auto", None):
        raise ValueError(
            f"this network has no stem of functions: leave stem at 'auto', got {stem!r}"
        )
    named = [
        p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    own = [name for name in named if name not in PARTS]
    shared = {key: value for key, value in options.items() if key not in own}
    plain = {key: shared.pop(key) for key in PLAIN_OPTIONS if key in shared and "plain" in named}
    _check_options(
        basis, shared, known=LINEAR_OPTIONS, others=own, without="it is the plain linear map"
    )
    linear = linear_layers(basis, **shared)
    parts = {
        "linear": linear,
        "local": partial(KANLocal2d, **linear.keywords),
        "plain": kan_conv(basis="none", **plain),
    }
    return {key: value for key, value in (parts | options).items() if key in named}


def _mixture(conv: Conv, experts: int | None, top_k: int | None) -> Conv:
    """The convolution, or where `experts` is a number as many of them."""
    if experts is None and top_k is not None:
        raise ValueError(
            f"top_k={top_k} is an option of mixtures of experts: give experts, the number of"
            " convolutions, too"
        )
    if experts is None:
        return conv
    check_counts(experts=experts, **({} if top_k is None else {"top_k": top_k}))
    return partial(
        ConvExperts,
        conv=conv,
        num_experts=experts,
        top_k=min(2, experts) if top_k is None else top_k,
    )


def _stem(stem: Stem, basis: str, shared: dict[str, object], conv: Conv) -> Conv:
    """The first convolution: as all others, or with its own basis and the others' norm, activation
    and the like.
    """
    per_edge = basis != "none" and shared.get("share", "edge") == "edge"
    if stem is None or (stem == "auto" and not per_edge):
        return conv
    if stem != "auto" and not isinstance(stem, Mapping):
        raise ValueError(f"stem must be 'auto', None or a mapping of options, got {stem!r}")
    own = dict(COLOR_STEM if stem == "auto" else {"basis": basis, "inner_channels": None, **stem})
    common = {key: value for key, value in shared.items() if key in CONV_OPTIONS}
    return _conv(str(own.pop("basis")), common | own, network_options=[])


def _conv(basis: str, options: dict[str, object], *, network_options: list[str]) -> Conv:
    """KANConv2d with its basis and options; an option that nothing takes is a ValueError that names
    the nearest.
    """
    _check_options(
        basis,
        options,
        known=CONV_OPTIONS,
        others=network_options,
        without="it is the plain convolution",
    )
    return kan_conv(basis=basis, **options)


def _check_options(
    basis: str, options: Iterable[str], *, known: list[str], others: list[str], without: str
) -> None:
    """ValueError for an option that neither the layer (`known`) nor the basis has; `others` are
    names that may have been meant.
    """
    basis_options = [] if basis == "none" else list_basis_options(basis)
    for key in options:
        if key not in known and key not in basis_options:
            guess = nearest(key, [*basis_options, *others, *known])
            has = f"it has: {', '.join(basis_options)}" if basis_options else without
            raise ValueError(f"unknown option {key!r}{guess} (basis {basis!r}: {has})")
