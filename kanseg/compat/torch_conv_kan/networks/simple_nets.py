"""The networks of four and eight convolutions: SimpleConvKAN, EightSimpleConvKAN, those of other
families, and the plain ones.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from kanseg.compat.torch_conv_kan import flat
from kanseg.compat.torch_conv_kan.networks.skeleton import (
    Names,
    Values,
    convolution,
    network_class,
    one_layer,
    own_options,
    pick,
)
from kanseg.encoders.simple import VARIANTS, simple_encoder
from kanseg.layers.blocks import Conv
from kanseg.models.classification import ClassificationModel


def _simple(
    values: Values, *, eight: bool, conv: Conv, stem: Conv, modules: int, **head: object
) -> tuple[nn.Module, Names]:
    """The network and its names; `modules`: of how many a convolution consists there."""
    sizes = list(values["layer_sizes"])
    plan = VARIANTS["simple_kan_8" if eight else "simple_kan_4"]
    if len(sizes) != sum(map(len, plan)):
        raise ValueError(
            f"layer_sizes must hold {sum(map(len, plan))} numbers of channels, got {sizes}"
        )
    rest = iter(sizes)
    levels = [[next(rest) for _ in level] for level in plan]
    encoder = simple_encoder(levels, values["input_channels"], conv=conv, stem=stem, width=1)
    net = ClassificationModel(encoder, classes=values["num_classes"], **head)
    places = [
        f"encoder.stages.{s}.{j}"
        for s, stage in enumerate(encoder.stages)
        for j in range(len(stage))
    ]
    if modules == 1:
        return net, {f"layers.{i}": place for i, place in enumerate(places)}
    return net, {
        f"layers.{modules * i + part}": f"{place}.{part}"
        for i, place in enumerate(places)
        for part in range(modules)
    }


def _functions(family: str, values: Values, *, eight: bool) -> tuple[nn.Module, Names]:
    options = own_options(family, values) | pick(values, "affine", "norm_layer")
    conv = convolution(
        family, options, spatial=pick(values, "groups", "dropout"), l1_decay=values["l1_penalty"]
    )
    dropout, degree = values["dropout_linear"], values["degree_out"]
    parts = {"eight": eight, "conv": conv, "stem": convolution(family, options), "modules": 1}
    if degree < 2:
        net, names = _simple(values, **parts, linear=nn.Linear, head_dropout=dropout)
        return net, names | {"output.1": "classification_head.3"}
    linear = one_layer(
        getattr(flat, family),
        own_options(family, values | {"degree": degree}) | {"dropout": dropout},
    )
    net, names = _simple(values, **parts, linear=linear, head="kan")
    return net, names | {"output": "classification_head.3"}


def _plain_conv(groups: int) -> Conv:
    def conv(in_channels: int, out_channels: int, kernel_size: int, **place: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, **place),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    return conv


def _plain(family: str, values: Values, *, eight: bool) -> tuple[nn.Module, Names]:
    conv, stem = _plain_conv(values["groups"]), _plain_conv(1)
    parts = {"eight": eight, "conv": conv, "stem": stem, "modules": 3}
    net, names = _simple(values, **parts, linear=nn.Linear, head_dropout=0.25)
    return net, names | {"output": "classification_head.3"}


_HEAD = "num_classes input_channels"
_END = "degree_out groups dropout dropout_linear l1_penalty"
_DEGREE = (f"{_HEAD} degree {_END} affine norm_layer", {})
# family -> name, order of the arguments behind layer_sizes, defaults that differ
_FAMILIES: dict[str, tuple[str, str, Values]] = {
    "KAN": ("ConvKAN", f"{_HEAD} spline_order {_END} affine norm_layer", {}),
    "FastKAN": (
        "FastConvKAN",
        f"{_HEAD} grid_size {_END} affine norm_layer",
        {"grid_size": 8, "degree_out": 2},
    ),
    "KALN": ("ConvKALN", *_DEGREE),
    "KACN": ("ConvKACN", *_DEGREE),
    "KAGN": ("ConvKAGN", *_DEGREE),
    "WavKAN": ("ConvWavKAN", f"{_HEAD} wavelet_type {_END}", {}),
    "plain": ("Conv", f"{_HEAD} groups", {}),
}
_OWN = {
    "num_classes": 10,
    "input_channels": 1,
    "degree_out": 3,
    "dropout_linear": 0.0,
    "l1_penalty": 0.0,
    "norm_layer": nn.BatchNorm2d,
}


__all__ = []
for _family, (_name, _order, _changes) in _FAMILIES.items():
    for _prefix, _eight in (("Simple", False), ("EightSimple", True)):
        _defaults = {**_OWN, **_changes}
        if _family == "KAN" and not _eight:
            _defaults["degree_out"] = 2
        _kind = {"module": __name__, "net": f"simple_kan_{8 if _eight else 4}"}
        _make = partial(_plain if _family == "plain" else _functions, eight=_eight)
        globals()[_prefix + _name] = network_class(
            _prefix + _name, _family, _make, "layer_sizes", _order, **_kind, **_defaults
        )
        __all__ += [_prefix + _name]
