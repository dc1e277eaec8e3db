"""Turn options into the parts of a network: `conv`, `plain`, `stem`, `linear` and `local`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from kanseg.bases import list_basis_options
from kanseg.layers.blocks import Conv, kan_conv
from kanseg.layers.experts import ConvExperts
from kanseg.layers.kan_conv import KANConv2d
from kanseg.layers.linear import KANLinear
from kanseg.layers.local import KANLocal2d
from kanseg.models.classification import CLASSIFIERS, is_positive_integer
from kanseg.models.flat import linear_layers
from kanseg.utils.registry import nearest

Options = dict[str, object]
Stem = Mapping[str, object] | str | None

# Keyword arguments of a builder that are parts instead of options; `plain` is `conv` without
# functions.
PARTS = ("conv", "plain", "stem", "linear", "local", "encoder", "aux_params")
# Default of `share` for the convolutions of a network (docs/study.md).
DEFAULT_SHARE = "channel"
PER_EDGE_OPTIONS = ("inner_channels", "function_init")  # options for share="edge" only
PLAIN_OPTIONS = ("norm", "activation", "padding_mode")  # for plain convolutions before flat layers
# Stem for colors: B-splines over three standard deviations of a normalized image, no bottleneck.
COLOR_STEM = {
    "basis": "bspline",
    "grid_size": 8,
    "grid_range": (-3.0, 3.0),
    "inner_channels": None,
}


def keyword_names(function: Callable) -> list[str]:
    """Names of the keyword-only parameters of a function."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _layer_options(layer: type) -> list[str]:
    """Keyword arguments of a layer that can be options of a network."""
    per_layer = ("groups", "device", "dtype")
    return [name for name in keyword_names(layer.__init__) if name not in per_layer]


CONV_OPTIONS = _layer_options(KANConv2d)
LINEAR_OPTIONS = _layer_options(KANLinear)


def with_default_share(name: str, basis: str, options: Mapping[str, object]) -> Options:
    """Add `share` to the options of a network, so that it is stored with the network.

    Functions are shared by default, except with options for share="edge" only, in flat networks,
    and in U-KAN, whose token blocks are KAN layers.
    """
    if basis == "none" or "share" in options:
        return dict(options)
    share = DEFAULT_SHARE
    if name in CLASSIFIERS or name == "ukan" or set(PER_EDGE_OPTIONS) & set(options):
        share = "edge"
    return {**options, "share": share}


def check_counts(**numbers: object) -> None:
    """Raise ValueError for a number that is not an integer of at least 1."""
    for name, value in numbers.items():
        if not is_positive_integer(value):
            raise ValueError(f"{name} must be at least 1 and an integer, got {value!r}")


def conv_parts(build: Callable, basis: str, stem: Stem, options: Options) -> Options:
    """Keyword arguments for a builder of convolutional networks: its parts and its own options.

    All other options go into the convolutions.

    Raises:
        ValueError: an option unknown to the builder, KANConv2d and the basis.
    """
    names = keyword_names(build)
    own = [name for name in names if name not in PARTS]
    given = {key: value for key, value in options.items() if key not in own}
    plain_options = {key: value for key, value in given.items() if key in CONV_OPTIONS}
    conv_options = _layer_defaults(given) | given
    experts, top_k = conv_options.pop("experts", None), conv_options.pop("top_k", None)
    conv = _conv(basis, conv_options, network_options=[*own, "experts", "top_k"])
    parts = {
        "conv": _with_experts(conv, experts, top_k),
        "plain": _conv("none", plain_options),
        "stem": _stem(stem, basis, conv_options, conv),
    }
    return _select(parts | options, names)


def flat_parts(build: Callable, basis: str, stem: Stem, options: Options) -> Options:
    """`conv_parts` for networks with functions in flat layers only and plain convolutions."""
    if stem not in ("auto", None):
        raise ValueError(f"this network has no KAN stem: leave stem at 'auto', got {stem!r}")
    names = keyword_names(build)
    own = [name for name in names if name not in PARTS]
    linear_options = {key: value for key, value in options.items() if key not in own}
    plain_options = {}
    if "plain" in names:
        plain_options = _select(linear_options, PLAIN_OPTIONS)
    for key in plain_options:
        del linear_options[key]
    _check_options(
        basis,
        linear_options,
        known=LINEAR_OPTIONS,
        others=own,
        without="it is the plain linear map",
    )
    linear = linear_layers(basis, **linear_options)
    parts = {
        "linear": linear,
        "local": partial(KANLocal2d, **linear.keywords),
        "plain": kan_conv(basis="none", **plain_options),
    }
    return _select(parts | options, names)


def _select(options: Options, names: Sequence[str]) -> Options:
    return {key: value for key, value in options.items() if key in names}


def _layer_defaults(given: Mapping[str, object]) -> Options:
    """Defaults of a network for the options of its layers."""
    if given.get("share", "edge") == "edge":
        # The layers have activations between them, so the base branch needs none.
        return {"inner_channels": 0.25, "base_activation": "identity"}
    if given.get("position") == "before_conv":
        return {"activation": None}
    return {}


def _with_experts(conv: Conv, experts: int | None, top_k: int | None) -> Conv:
    """The convolution, or with `experts` a mixture of that many."""
    if experts is None:
        if top_k is not None:
            raise ValueError(
                f"top_k={top_k} is an option of mixtures of experts: set experts, their number, too"
            )
        return conv
    check_counts(experts=experts)
    if top_k is None:
        top_k = min(2, experts)
    check_counts(top_k=top_k)
    return partial(ConvExperts, conv=conv, num_experts=experts, top_k=top_k)


def _stem(stem: Stem, basis: str, conv_options: Options, conv: Conv) -> Conv:
    """The first convolution: `conv`, or one with another basis and otherwise the same options."""
    if stem == "auto":
        per_edge = basis != "none" and conv_options.get("share", "edge") == "edge"
        stem = COLOR_STEM if per_edge else None
    if stem is None:
        return conv
    if not isinstance(stem, Mapping):
        raise ValueError(f"stem must be 'auto', None or a mapping of options, got {stem!r}")
    own = {"basis": basis, "inner_channels": None, **stem}
    stem_basis = str(own.pop("basis"))
    return _conv(stem_basis, _select(conv_options, CONV_OPTIONS) | own)


def _conv(basis: str, options: Options, *, network_options: Sequence[str] = ()) -> Conv:
    """KANConv2d with the given basis and options, which are checked."""
    _check_options(
        basis,
        options,
        known=CONV_OPTIONS,
        others=network_options,
        without="it is the plain convolution",
    )
    return kan_conv(basis=basis, **options)


def _check_options(
    basis: str, options: Iterable[str], *, known: Sequence[str], others: Sequence[str], without: str
) -> None:
    """Raise ValueError for an option that neither the layer (`known`) nor the basis has.

    `others` are options of the network, `without` describes basis "none" in the message.
    """
    basis_options = []
    if basis != "none":
        basis_options = list_basis_options(basis)
        without = ", ".join(basis_options) or "no options"
    for key in options:
        if key in known or key in basis_options:
            continue
        guess = nearest(key, [*basis_options, *others, *known])
        groups = [f"layers: {', '.join(known)}", f"basis {basis!r}: {without}"]
        if others:
            groups.insert(0, f"network: {', '.join(others)}")
        raise ValueError(
            f"unknown option {key!r}{guess} (options of the {'; of the '.join(groups)})"
        )
