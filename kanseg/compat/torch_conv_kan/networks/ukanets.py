"""U-Nets: ukanet_18 and its relatives, and UKAGNet."""

from __future__ import annotations

from torch import nn

from kanseg.compat.torch_conv_kan.networks.skeleton import (
    SPATIAL,
    Arguments,
    Names,
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

# Options that torch-conv-kan always uses for the blocks after the first one of a stage, and that
# converted weights cannot emulate.
_LATER_BLOCKS: dict[str, Arguments] = {
    "KAN": {"spline_order": 3, "grid_size": 5, "base_activation": nn.GELU, "grid_range": [-1, 1]},
    "FastKAN": {"grid_size": 5, "base_activation": nn.SiLU, "grid_range": [-1, 1]},
    "BottleNeckKAGN": {"norm_layer": nn.BatchNorm2d, "affine": True},
}


class _StageBlock:
    """Creates the residual blocks of `ukanet`, with one kind of convolution for the first block of
    a stage and another for the others.

    `kanseg.layers.blocks.stage` passes a stride to the first block only.
    """

    expansion = BasicBlock.expansion

    def __init__(self, first: Conv, rest: Conv):
        self.first, self.rest = first, rest

    def __call__(
        self, in_channels: int, out_channels: int, stride: int | None = None, *, conv: Conv
    ) -> BasicBlock:
        if stride is None:
            return BasicBlock(in_channels, out_channels, conv=self.rest)
        return BasicBlock(in_channels, out_channels, stride, conv=self.first)


def _ukanet(family: str, arguments: Arguments) -> tuple[nn.Module, Names]:
    common = own_options(family, arguments) | pick(arguments, "affine", "norm_layer", "dropout")
    rest = common | {"norm_layer": nn.InstanceNorm2d} | _LATER_BLOCKS.get(family, {})
    if "degree" in rest:
        # It is always 3 in torch-conv-kan; a higher degree can hold these weights too.
        rest["degree"] = max(3, rest["degree"])
    groups = pick(arguments, "groups")
    spatial = groups | SPATIAL.get(family, {})
    first, later = (
        convolution(family, options, spatial=spatial, l1_decay=arguments["l1_decay"])
        for options in (common, rest)
    )
    merge = convolution(family, common, spatial=groups)
    sizes = {"width": 8 * arguments["width_scale"], "depth": 3, "align_corners": True}
    parts = {"conv": merge, "stem": convolution(family, common)}
    net = ukanet(
        _StageBlock(first, later),
        (2, 2, 2, 2),
        arguments["input_channels"],
        arguments["num_classes"],
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

    In torch-conv-kan the second block of every stage ignores the options. Here degree, affine,
    dropout and l1_decay apply to it, and converted weights are padded so that they compute the same
    function. The grid, the base activation and the kind of norm are the defaults, as in
    torch-conv-kan.
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


def _ukagnet(family: str, arguments: Arguments) -> tuple[nn.Module, Names]:
    if arguments["mixer_type"] != "conv":
        raise ValueError(
            f"mixer_type must be 'conv', got {arguments['mixer_type']!r}: torch-conv-kan's"
            " attention and focal modulation are not part of kanseg.compat; train a UKAGNet with"
            " mixer_type='conv', or a network of kanseg.list_models()"
        )
    family = "BottleNeckKAGN" if arguments["use_bottleneck"] else "KAGN"
    options = pick(arguments, "degree", "groups", "affine", "norm_layer")
    depth, layers = arguments["unet_depth"], arguments["unet_layers"]
    parts = {
        "conv": convolution(family, options | pick(arguments, "dropout")),
        "stem": convolution(family, options),
    }
    sizes = {
        "width": 16 * arguments["width_scale"],
        "depth": depth - 1,
        "num_convs": layers,
        "downsample": "stride",
        "align_corners": True,
    }
    net = unet(arguments["input_channels"], arguments["num_classes"], **parts, **sizes)
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
    more=" The only mixer is 'conv', so the arguments after norm_layer have no effect.",
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
