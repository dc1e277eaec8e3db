"""tiny_densekanet, densekanet121 and their families."""

from __future__ import annotations

from functools import partial

from torch import nn

from kanseg.compat.torch_conv_kan import flat
from kanseg.compat.torch_conv_kan.networks.skeleton import (
    SPATIAL,
    Names,
    Values,
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


def _convs(family: str, values: Values) -> dict[str, Conv]:
    """`conv`, `stem` and `plain` for the encoder; dropout and groups reach the 3x3 convolutions
    alone, as there.
    """
    options = own_options(family, values) | pick(values, "affine", "norm_layer")
    spatial = SPATIAL.get(family, {}) | pick(values, "groups", "dropout")
    conv = convolution(family, options, spatial=spatial, l1_decay=values["l1_decay"])
    return {
        "conv": conv,
        "stem": convolution(family, options),
        "plain": nn.Conv2d,
    }  # `plain` is in kanseg's own transition


def _names(layers: tuple[int, ...], stem: int, pooled: bool) -> Names:
    """`stem`: the stage of the first convolution; `pooled`: whether a maximum leads the next."""
    names = {"features.conv0": f"encoder.stages.{stem}.0"}
    for i, count in enumerate(layers):
        stage = stem + i + pooled
        place = (
            4 if i > 0 else 1
            # behind the four modules of a transition; behind the maximum, or the stem in its
            # own stage
        )
        if i > 0:
            names |= {
                f"features.transition{i}.{theirs}": f"encoder.stages.{stage}.{j}"
                for theirs, j in (("norm", 0), ("conv", 2))
            }
        for j in range(count):
            block = f"features.denseblock{i + 1}.denselayer{j + 1}"
            names |= {
                f"{block}.conv{k + 1}": f"encoder.stages.{stage}.{place}.layers.{j}.{k}"
                for k in (0, 1)
            }
    return names


def _tiny(family: str, values: Values) -> tuple[nn.Module, Names]:
    plan = VARIANTS["densekanet_tiny"]
    parts = _convs(family, values)
    parts["stem"] = fixed(parts["stem"], 5, stride=2, padding=2)
    sizes = {
        "width": values["num_init_features"],
        "growth": values["growth_rate"],
        "stem_stride": 2,
    }
    encoder = densekanet_encoder(
        plan, values["input_channels"], transition=_transition, **parts, **sizes
    )
    linear = one_layer(getattr(flat, family), own_options(family, values))
    dropout = values.get("dropout_linear", 0.0)
    net = ClassificationModel(
        encoder, classes=values["num_classes"], linear=linear, head="kan", head_dropout=dropout
    )
    return net, _names(plan.layers, 1, False) | {"classifier": "classification_head.3"}


def _dense(family: str, values: Values, *, plan: str) -> tuple[nn.Module, Names]:
    pooled = values["use_first_maxpool"]
    sizes = {
        "width": values["num_init_features"],
        "growth": values["growth_rate"],
        "stem_stride": 4 if pooled else 2,
    }
    encoder = densekanet_encoder(
        VARIANTS[plan],
        values["input_channels"],
        transition=_transition,
        **_convs(family, values),
        **sizes,
    )
    dropout = values.get("dropout_linear", 0.0)
    net = ClassificationModel(
        encoder, classes=values["num_classes"], linear=nn.Linear, head_dropout=dropout
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
# family -> options of the functions, arguments before l1_decay, defaults that differ; names of
# the tiny network and of the others
_FAMILIES: dict[str, tuple[str, str, Values, str, str]] = {
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
_NUMBERS = {
    "KALN": (121, 161, 169, 201),
    "KAGN": (121, 161, 169, 201),
    "BottleNeckKAGN": (121, 161, 169, 201),
}  # all others: 121

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
