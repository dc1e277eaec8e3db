"""ukanet_18, its family, and UKAGNet."""

from __future__ import annotations

from torch import nn

from kanseg.compat.torch_conv_kan.networks.skeleton import (
    SPATIAL,
    Names,
    Values,
    builder,
    convolution,
    network_class,
    own_options,
    pick,
    residual_names,
)
from kanseg.layers.blocks import BasicBlock, Conv
from kanseg.models.ukanet import ukanet
from kanseg.models.unet import unet

# What torch-conv-kan gives to the blocks after a stage's first, whatever is asked, and no weights
# can make up for.
_REST: dict[str, Values] = {
    "KAN": {"spline_order": 3, "grid_size": 5, "base_activation": nn.GELU, "grid_range": [-1, 1]},
    "FastKAN": {"grid_size": 5, "base_activation": nn.SiLU, "grid_range": [-1, 1]},
    "BottleNeckKAGN": {"norm_layer": nn.BatchNorm2d, "affine": True},
}


class _TwoKinds:
    """A residual block for `ukanet`, with convolutions of its own: one kind for a stage's first
    block, another for the rest.

    They differ in the stride, which `kanseg.layers.blocks.stage` names for the first block
    alone.
    """

    expansion = BasicBlock.expansion

    def __init__(self, first: Conv, rest: Conv):
        self.first, self.rest = first, rest

    def __call__(
        self, in_channels: int, out_channels: int, stride: int | None = None, *, conv: Conv
    ) -> BasicBlock:
        return BasicBlock(
            in_channels, out_channels, stride or 1, conv=self.rest if stride is None else self.first
        )


def _ukanet(family: str, values: Values) -> tuple[nn.Module, Names]:
    common = own_options(family, values) | pick(values, "affine", "norm_layer", "dropout")
    rest = common | {"norm_layer": nn.InstanceNorm2d} | _REST.get(family, {})
    if "degree" in rest:
        rest["degree"] = max(
            3, rest["degree"]
        )  # there always 3; a higher degree holds those weights, a lower one cannot
    groups = pick(values, "groups")
    spatial = groups | SPATIAL.get(family, {})
    first, later = (
        convolution(family, options, spatial=spatial, l1_decay=values["l1_decay"])
        for options in (common, rest)
    )
    merge = convolution(family, common, spatial=groups)
    sizes = {"width": 8 * values["width_scale"], "depth": 3, "align_corners": True}
    parts = {"conv": merge, "stem": convolution(family, common)}
    net = ukanet(
        _TwoKinds(first, later),
        (2, 2, 2, 2),
        values["input_channels"],
        values["num_classes"],
        **parts,
        **sizes,
    )
    names = {"conv1": "encoder.stages.0.0", "output": "segmentation_head"} | {
        f"merge{i}": f"decoder.blocks.{3 - i}.0" for i in (1, 2, 3)
    }
    for j in (0, 1):
        for i in (1, 2, 3, 4):
            names |= residual_names(
                f"layer{i}e.{j}", f"encoder.stages.{i - 1}.{j + 1 if i == 1 else j}"
            )
            names |= residual_names(
                f"layer{i}d.{j}",
                f"decoder.bottom.{j}" if i == 4 else f"decoder.blocks.{3 - i}.{j + 1}",
            )
    return net, names


_MORE = """

    There the second block of every stage has default options. Here degree, affine, dropout and
    l1_decay reach it, and conversion fills them up so that the function stays; the grid, the base
    activation and the kind of norm, for which no weights can make up, are those of torch-conv-kan.
    """
_KIND = {"net": "ukanet_18", "more": _MORE}
_BEFORE = "groups spline_order grid_size base_activation grid_range width_scale"
ukanet_18 = builder(
    "ukanet_18", "KAN", _ukanet, f"{_BEFORE} dropout l1_decay affine norm_layer", **_KIND
)
fast_ukanet_18 = builder(
    "fast_ukanet_18",
    "FastKAN",
    _ukanet,
    f"{_BEFORE} dropout l1_decay affine norm_layer".replace("spline_order ", ""),
    **_KIND,
)
ukalnet_18 = builder(
    "ukalnet_18",
    "KALN",
    _ukanet,
    "groups degree width_scale affine norm_layer dropout l1_decay",
    **_KIND,
)
ukacnet_18 = builder(
    "ukacnet_18",
    "KACN",
    _ukanet,
    "groups degree width_scale dropout l1_decay affine norm_layer",
    **_KIND,
)
ukagnet_18 = builder(
    "ukagnet_18",
    "KAGN",
    _ukanet,
    "groups degree width_scale affine dropout l1_decay norm_layer",
    **_KIND,
)
ukagnetnb_18 = builder(
    "ukagnetnb_18",
    "BottleNeckKAGN",
    _ukanet,
    "groups degree width_scale affine dropout l1_decay norm_layer",
    **_KIND,
)


def _ukagnet(family: str, values: Values) -> tuple[nn.Module, Names]:
    if values["mixer_type"] != "conv":
        raise ValueError(
            f"mixer_type must be 'conv', got {values['mixer_type']!r}: torch-conv-kan's attention"
            " and focal modulation are not part of kanseg.compat. Build UKAGNet with"
            " mixer_type='conv', or a network of kanseg.list_models(), and train it anew"
        )
    family = "BottleNeckKAGN" if values["use_bottleneck"] else "KAGN"
    options = pick(values, "degree", "groups", "affine", "norm_layer")
    depth, layers = values["unet_depth"], values["unet_layers"]
    parts = {
        "conv": convolution(family, options | pick(values, "dropout")),
        "stem": convolution(family, options),
    }
    sizes = {
        "width": 16 * values["width_scale"],
        "depth": depth - 1,
        "num_convs": layers,
        "downsample": "stride",
        "align_corners": True,
    }
    net = unet(values["input_channels"], values["num_classes"], **parts, **sizes)
    names = {"output": "segmentation_head"}
    names |= {f"encoder.{i}": f"encoder.stages.{i}" for i in range(depth)} | {
        f"decoder.{i}": f"decoder.blocks.{i}" for i in range(depth - 1)
    }
    return net, names


UKAGNet = network_class(
    "UKAGNet",
    "KAGN",
    _ukagnet,
    "",
    "input_channels num_classes unet_depth unet_layers groups width_scale use_bottleneck mixer_type"
    " degree affine dropout norm_layer inner_projection_attention focal_window focal_level"
    " focal_factor use_postln_in_modulation normalize_modulator full_kan",
    module=__name__,
    net="unet",
    more=" Of the mixers only 'conv', so that the arguments behind norm_layer have no effect.",
    **{
        "input_channels": 3,
        "num_classes": 1,
        "unet_depth": 4,
        "unet_layers": 2,
        "use_bottleneck": True,
        "mixer_type": "conv",
        "norm_layer": nn.BatchNorm2d,
    },
    **{"inner_projection_attention": None, "focal_window": 3, "focal_level": 2, "focal_factor": 2},
    **{"use_postln_in_modulation": True, "normalize_modulator": True, "full_kan": True},
)

__all__ = [
    "UKAGNet",
    "fast_ukanet_18",
    "ukacnet_18",
    "ukagnet_18",
    "ukagnetnb_18",
    "ukalnet_18",
    "ukanet_18",
]
