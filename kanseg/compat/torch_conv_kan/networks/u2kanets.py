"""U2-Nets: u2kanet, u2kanet_small and their relatives, and the plain u2net. All return seven maps
of logits, also in evaluation.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from kanseg.compat.torch_conv_kan.networks.skeleton import (
    SPATIAL,
    Arguments,
    Names,
    builder,
    convolution,
    fixed,
    own_options,
    pick,
)
from kanseg.compat.torch_conv_kan.parts import L1
from kanseg.layers.blocks import Conv
from kanseg.models.u2kanet import VARIANTS
from kanseg.models.u2kanet import u2kanet as build_u2kanet


def _nested(size: str, arguments: Arguments, conv: Conv, stem: Conv) -> tuple[nn.Module, Names]:
    """The network of a size in `kanseg.models.u2kanet.VARIANTS`, and the names of its parts."""
    sizes = {"width": 16 * arguments["width_scale"], "align_corners": True}
    net = build_u2kanet(
        VARIANTS[size],
        arguments["input_channels"],
        arguments["num_classes"],
        conv=conv,
        stem=stem,
        **sizes,
    )
    net.segmentation_head.always_sides = True
    stages = {"stage1": "encoder.stages.0"} | {
        f"stage{i + 1}": f"encoder.stages.{i}.1" for i in range(1, 6)
    }
    stages |= {f"stage{i + 1}d": f"decoder.blocks.{i}" for i in range(5)}
    inside = {"input_conv": "enter", "encoder_list": "down", "decoder_list": "up"}
    names = {
        f"{stage}.{theirs}": f"{ours}.{name}"
        for stage, ours in stages.items()
        for theirs, name in inside.items()
    }
    names |= {f"side{i + 1}": f"segmentation_head.sides.{i}" for i in range(6)} | {
        "outconv": "segmentation_head.fuse"
    }
    return net, names


def _u2kanet(family: str, arguments: Arguments, *, size: str) -> tuple[nn.Module, Names]:
    options = own_options(family, arguments) | pick(arguments, "affine", "norm_layer", "dropout")
    spatial = SPATIAL.get(family, {}) | pick(arguments, "dim_reduction")
    conv = convolution(
        family, options, spatial=spatial | pick(arguments, "groups"), l1_decay=arguments["l1_decay"]
    )
    stem = convolution(family, options, spatial=spatial, l1_decay=arguments["l1_decay"])
    if family == "BottleNeckKAGN" and size == "u2kanet_small":
        stem = fixed(stem, 1)  # torch-conv-kan has a 1x1 convolution here
    return _nested(size, arguments, conv, stem)


def _plain(groups: int, dropout: float, l1_decay: float) -> Conv:
    """Dropout, convolution, norm and GELU, with the indices of torch-conv-kan."""

    def conv(
        in_channels: int, out_channels: int, kernel_size: int, **conv_options: int
    ) -> nn.Sequential:
        linear = nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, **conv_options)
        linear = L1(linear, l1_decay) if l1_decay > 0 else linear
        before = [nn.Dropout(dropout)] if dropout > 0 else []
        return nn.Sequential(*before, linear, nn.BatchNorm2d(out_channels), nn.GELU())

    return conv


def _u2net(family: str, arguments: Arguments, *, size: str) -> tuple[nn.Module, Names]:
    conv, stem = (
        _plain(groups, arguments["dropout"], arguments["l1_decay"])
        for groups in (arguments["groups"], 1)
    )
    return _nested(size, arguments, conv, stem)


_MORE = " Returns seven maps of logits in training and evaluation, the fused one first."
_FULL, _SMALL = ({"net": size, "more": _MORE} for size in ("u2kanet", "u2kanet_small"))
_full, _small = (partial(_u2kanet, size=size) for size in ("u2kanet", "u2kanet_small"))
_RBF = {"base_activation": nn.SiLU, "grid_range": [-2, 2]}
_SPLINE = (
    "groups spline_order grid_size base_activation grid_range dropout l1_decay width_scale affine"
    " norm_layer"
)
_GRID = _SPLINE.replace("spline_order ", "")
_DEGREE = "groups degree width_scale dropout l1_decay affine norm_layer"
u2kanet = builder("u2kanet", "KAN", _full, _SPLINE, **_FULL)
fast_u2kanet = builder("fast_u2kanet", "FastKAN", _full, _GRID, **_FULL, **_RBF)
u2kalnet = builder("u2kalnet", "KALN", _full, _DEGREE, **_FULL)
u2kacnet = builder("u2kacnet", "KACN", _full, _DEGREE, **_FULL)
u2kagnet = builder("u2kagnet", "KAGN", _full, _DEGREE, **_FULL)
u2kagnet_bn = builder(
    "u2kagnet_bn",
    "BottleNeckKAGN",
    _full,
    _DEGREE.replace("norm", "dim_reduction norm"),
    **_FULL,
    dim_reduction=8,
)
u2kanet_small = builder("u2kanet_small", "KAN", _small, _SPLINE, **_SMALL)
fast_u2kanet_small = builder("fast_u2kanet_small", "FastKAN", _small, _GRID, **_SMALL, **_RBF)
u2kalnet_small = builder("u2kalnet_small", "KALN", _small, _DEGREE, **_SMALL)
u2kacnet_small = builder("u2kacnet_small", "KACN", _small, _DEGREE, **_SMALL)
u2kagnet_small = builder("u2kagnet_small", "KAGN", _small, _DEGREE, **_SMALL)
u2kagnet_bn_small = builder("u2kagnet_bn_small", "BottleNeckKAGN", _small, _DEGREE, **_SMALL)
u2net = builder(
    "u2net",
    "plain",
    partial(_u2net, size="u2kanet"),
    "groups width_scale dropout l1_decay",
    **_FULL,
)
u2net_small = builder(
    "u2net_small",
    "plain",
    partial(_u2net, size="u2kanet_small"),
    "groups width_scale dropout l1_decay",
    **_SMALL,
)

_KINDS = ["u2kanet", "fast_u2kanet", "u2kalnet", "u2kacnet", "u2kagnet", "u2kagnet_bn", "u2net"]
__all__ = [*_KINDS, *(f"{name}_small" for name in _KINDS)]
