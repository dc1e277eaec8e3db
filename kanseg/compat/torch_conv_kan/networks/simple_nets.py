"""Networks of 4 and 8 convolutions: SimpleConvKAN, EightSimpleConvKAN and their relatives."""

from __future__ import annotations

from functools import partial

from torch import nn

from kanseg.compat.torch_conv_kan import flat
from kanseg.compat.torch_conv_kan.networks.skeleton import (
    Arguments,
    Names,
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
    arguments: Arguments, *, eight: bool, conv: Conv, stem: Conv, modules: int, **head: object
) -> tuple[nn.Module, Names]:
    """The network and the names of its parts; in torch-conv-kan a convolution consists of `modules`
    modules.
    """
    sizes = list(arguments["layer_sizes"])
    plan = VARIANTS["simple_kan_8" if eight else "simple_kan_4"]
    if len(sizes) != sum(map(len, plan)):
        raise ValueError(
            f"layer_sizes must hold {sum(map(len, plan))} numbers of channels, got {sizes}"
        )
    rest = iter(sizes)
    levels = [[next(rest) for _ in level] for level in plan]
    encoder = simple_encoder(levels, arguments["input_channels"], conv=conv, stem=stem, width=1)
    net = ClassificationModel(encoder, classes=arguments["num_classes"], **head)
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


def _functions(family: str, arguments: Arguments, *, eight: bool) -> tuple[nn.Module, Names]:
    options = own_options(family, arguments) | pick(arguments, "affine", "norm_layer")
    conv = convolution(
        family,
        options,
        spatial=pick(arguments, "groups", "dropout"),
        l1_decay=arguments["l1_penalty"],
    )
    dropout, degree = arguments["dropout_linear"], arguments["degree_out"]
    parts = {"eight": eight, "conv": conv, "stem": convolution(family, options), "modules": 1}
    if degree < 2:
        net, names = _simple(arguments, **parts, linear=nn.Linear, head_dropout=dropout)
        return net, names | {"output.1": "classification_head.3"}
    linear = one_layer(
        getattr(flat, family),
        own_options(family, arguments | {"degree": degree}) | {"dropout": dropout},
    )
    net, names = _simple(arguments, **parts, linear=linear, head="kan")
    return net, names | {"output": "classification_head.3"}


def _plain_conv(groups: int) -> Conv:
    def conv(
        in_channels: int, out_channels: int, kernel_size: int, **conv_options: int
    ) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, **conv_options),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    return conv


def _plain(family: str, arguments: Arguments, *, eight: bool) -> tuple[nn.Module, Names]:
    conv, stem = _plain_conv(arguments["groups"]), _plain_conv(1)
    parts = {"eight": eight, "conv": conv, "stem": stem, "modules": 3}
    net, names = _simple(arguments, **parts, linear=nn.Linear, head_dropout=0.25)
    return net, names | {"output": "classification_head.3"}


_HEAD = "num_classes input_channels"
_END = "degree_out groups dropout dropout_linear l1_penalty"
_DEGREE = (f"{_HEAD} degree {_END} affine norm_layer", {})
# family -> (end of the name, parameters after layer_sizes, other defaults)
_FAMILIES: dict[str, tuple[str, str, Arguments]] = {
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
