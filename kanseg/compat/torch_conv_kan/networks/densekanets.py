"""DenseNets: tiny_densekanet, densekanet121 and their relatives."""

from __future__ import annotations

from functools import partial

from torch import nn

from kanseg.compat.torch_conv_kan import flat
from kanseg.compat.torch_conv_kan.networks.skeleton import (
    SPATIAL,
    Arguments,
    Names,
    builder,
    convolution,
    fixed,
    one_layer,
    own_options,
    pick,
)
from kanseg.encoders.densekanet import VARIANTS, densekanet_encoder
from kanseg.layers.blocks import Conv
from kanseg.models.classification import ClassificationModel


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.SELU(), conv, nn.AvgPool2d(2))


def _convs(family: str, arguments: Arguments) -> dict[str, Conv]:
    """`conv`, `stem` and `plain` for the encoder. As in torch-conv-kan, only 3x3 convolutions have
    dropout and groups.
    """
    options = own_options(family, arguments) | pick(arguments, "affine", "norm_layer")
    spatial = SPATIAL.get(family, {}) | pick(arguments, "groups", "dropout")
    conv = convolution(family, options, spatial=spatial, l1_decay=arguments["l1_decay"])
    return {"conv": conv, "stem": convolution(family, options), "plain": nn.Conv2d}


def _names(layers: tuple[int, ...], stem: int, pooled: bool) -> Names:
    """Names of the parts.

    Args:
        layers: number of layers of each dense block.
        stem: index of the stage with the first convolution.
        pooled: whether the next stage starts with a max pool.
    """
    names = {"features.conv0": f"encoder.stages.{stem}.0"}
    for i, count in enumerate(layers):
        stage = stem + i + pooled
        # A dense block follows the four modules of a transition; the first one follows the max
        # pool, or the stem in its own stage.
        index = 4 if i > 0 else 1
        if i > 0:
            names |= {
                f"features.transition{i}.{theirs}": f"encoder.stages.{stage}.{j}"
                for theirs, j in (("norm", 0), ("conv", 2))
            }
        for j in range(count):
            block = f"features.denseblock{i + 1}.denselayer{j + 1}"
            names |= {
                f"{block}.conv{k + 1}": f"encoder.stages.{stage}.{index}.layers.{j}.{k}"
                for k in (0, 1)
            }
    return names


def _tiny(family: str, arguments: Arguments) -> tuple[nn.Module, Names]:
    plan = VARIANTS["densekanet_tiny"]
    parts = _convs(family, arguments)
    parts["stem"] = fixed(parts["stem"], 5, stride=2, padding=2)
    sizes = {
        "width": arguments["num_init_features"],
        "growth": arguments["growth_rate"],
        "stem_stride": 2,
    }
    encoder = densekanet_encoder(
        plan, arguments["input_channels"], transition=_transition, **parts, **sizes
    )
    linear = one_layer(getattr(flat, family), own_options(family, arguments))
    dropout = arguments.get("dropout_linear", 0.0)
    net = ClassificationModel(
        encoder, classes=arguments["num_classes"], linear=linear, head="kan", head_dropout=dropout
    )
    return net, _names(plan.layers, 1, False) | {"classifier": "classification_head.3"}


def _dense(family: str, arguments: Arguments, *, plan: str) -> tuple[nn.Module, Names]:
    pooled = arguments["use_first_maxpool"]
    sizes = {
        "width": arguments["num_init_features"],
        "growth": arguments["growth_rate"],
        "stem_stride": 4 if pooled else 2,
    }
    encoder = densekanet_encoder(
        VARIANTS[plan],
        arguments["input_channels"],
        transition=_transition,
        **_convs(family, arguments),
        **sizes,
    )
    dropout = arguments.get("dropout_linear", 0.0)
    net = ClassificationModel(
        encoder, classes=arguments["num_classes"], linear=nn.Linear, head_dropout=dropout
    )
    return net, _names(VARIANTS[plan].layers, 1, pooled) | {"classifier": "classification_head.3"}


_SPLINE = "spline_order grid_size base_activation grid_range"
_SIZE = "growth_rate num_init_features affine norm_layer"
_OWN = {
    "growth_rate": 32,
    "num_init_features": 64,
    "use_first_maxpool": True,
    "dropout_linear": 0.0,
}
# family -> (options of the functions, parameters before l1_decay, other defaults, name of the tiny
# network, pattern of the other names)
_FAMILIES: dict[str, tuple[str, str, Arguments, str, str]] = {
    "KAN": (_SPLINE, "dropout", {}, "tiny_densekanet", "densekanet{}"),
    "FastKAN": (
        _SPLINE.replace("spline_order ", ""),
        "dropout",
        {},
        "tiny_fast_densekanet",
        "fast_densekanet{}",
    ),
    "KALN": ("degree", "dropout", {}, "tiny_densekalnet", "densekalnet{}"),
    "KACN": ("degree", "dropout", {}, "tiny_densekacnet", "densekacnet{}"),
    "KAGN": ("degree", "dropout", {}, "tiny_densekagnet", "densekagnet{}"),
    "BottleNeckKAGN": (
        "degree",
        "dropout dropout_linear",
        {"norm_layer": nn.BatchNorm2d},
        "tiny_densekagnet_bn",
        "densekagnet{}bn",
    ),
}
# Numbers of layers; all other families have 121 only.
_NUMBERS = dict.fromkeys(("KALN", "KAGN", "BottleNeckKAGN"), (121, 161, 169, 201))

__all__ = []
for _family, (_options, _before, _changes, _name, _pattern) in _FAMILIES.items():
    _order = f"groups {_options} {_before} l1_decay"
    globals()[_name] = builder(
        _name, _family, _tiny, f"{_order} {_SIZE}", net="densekanet_tiny", **{**_OWN, **_changes}
    )
    __all__ += [_name]
    for _number in _NUMBERS.get(_family, (121,)):
        _plan, _name = f"densekanet_{_number}", _pattern.format(_number)
        _defaults = {**_OWN, **_changes, "growth_rate": 48 if _number == 161 else 32}
        globals()[_name] = builder(
            _name,
            _family,
            partial(_dense, plan=_plan),
            f"{_order} use_first_maxpool {_SIZE}",
            net=_plan,
            **_defaults,
        )
        __all__ += [_name]
