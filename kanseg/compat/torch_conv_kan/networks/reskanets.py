"""ResNets: reskanet_18x32p and its relatives, for images of 32 and 64 pixels (32p, 64p) and 224."""

from __future__ import annotations

import warnings
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
    residual_names,
)
from kanseg.encoders.reskanet import VARIANTS, reskanet_encoder
from kanseg.layers.blocks import BottleneckBlock
from kanseg.models.classification import ClassificationModel


def _reskanet(
    family: str, arguments: Arguments, *, plan: str, pixels: int
) -> tuple[nn.Module, Names]:
    block, num_blocks = VARIANTS[plan]
    if block is BottleneckBlock and arguments["groups"] != 1:
        raise ValueError(
            f"groups must be 1 in {plan}, got {arguments['groups']}: torch-conv-kan widens these"
            " blocks with the number of groups, which kanseg does not support"
        )
    if arguments["hidden_layer_dim"] is not None:
        warnings.warn("hidden_layer_dim has no effect, as in torch-conv-kan", stacklevel=4)
    norm = {"norm_layer": arguments.get("norm_layer", nn.BatchNorm2d)}
    common = own_options(family, arguments) | pick(arguments, "affine", "dropout")
    spatial = SPATIAL.get(family, {}) | pick(arguments, "groups")
    conv = convolution(family, common | norm, spatial=spatial, l1_decay=arguments["l1_decay"])
    # In torch-conv-kan the first convolution has the norm of the others only in the Gram families.
    stem = convolution(family, common | (norm if "KAGN" in family else {}))
    stem = fixed(stem, 3, stride=1, padding=1) if pixels == 64 else stem
    sizes = {"width": 8 * arguments.get("width_scale", 1), "stem_stride": 1 if pixels == 32 else 4}
    encoder = reskanet_encoder(
        block, num_blocks, arguments["input_channels"], conv=conv, stem=stem, **sizes
    )
    net = ClassificationModel(
        encoder,
        classes=arguments["num_classes"],
        linear=nn.Linear,
        head_dropout=arguments["dropout_linear"],
    )
    names = {
        "conv1": "encoder.stages.0.0" if pixels == 32 else "encoder.stages.1.0",
        "fc": "classification_head.3",
    }
    for i, count in enumerate(num_blocks):
        stage = i if pixels == 32 else i + 2
        first = 1 if i == 0 else 0  # after the stem, or the max pool
        for j in range(count):
            names |= residual_names(f"layer{i + 1}.{j}", f"encoder.stages.{stage}.{first + j}")
    return net, names


_END = "dropout l1_decay dropout_linear affine"
_DEEP = f"degree width_scale hidden_layer_dim {_END}".replace(
    "l1_decay dropout_linear", "dropout_linear l1_decay"
)
_BIG = "degree width_scale dropout dropout_linear l1_decay hidden_layer_dim affine"
_GRID = f"grid_size base_activation grid_range hidden_layer_dim {_END}"
_SHALLOW = f"degree width_scale hidden_layer_dim {_END}"
_LONG = {"dropout": 0.15}
_NORMED = {"dropout": 0.15, "affine": True}
# name -> (family, kanseg's network, pixels, parameters after groups, other defaults)
_FORMS: dict[str, tuple[str, str, int, str, Arguments]] = {
    "reskanet_18x32p": ("KAN", "reskanet_18", 32, f"spline_order {_GRID}", {}),
    "fast_reskanet_18x32p": ("FastKAN", "reskanet_18", 32, _GRID, {}),
    "reskalnet_18x32p": ("KALN", "reskanet_18", 32, _SHALLOW, {}),
    "reskacnet_18x32p": ("KACN", "reskanet_18", 32, _SHALLOW.replace("width_scale ", ""), {}),
    "reskagnet_18x32p": ("KAGN", "reskanet_18", 32, _SHALLOW, {}),
    "reskagnetbn_18x32p": ("BottleNeckKAGN", "reskanet_18", 32, _SHALLOW, {}),
    "reskagnet_34x32p": ("KAGN", "reskanet_34", 32, _SHALLOW, {}),
    "reskagnetbn_34x32p": ("BottleNeckKAGN", "reskanet_34", 32, _SHALLOW, {}),
    "reskalnet_101x32p": ("KALN", "reskanet_101", 32, _DEEP, _LONG),
    "reskalnet_152x32p": ("KALN", "reskanet_152", 32, _DEEP, _LONG),
    "reskalnet_18x64p": ("KALN", "reskanet_18", 64, _SHALLOW, {}),
    "reskalnet_50x64p": ("KALN", "reskanet_50", 64, _BIG, _LONG),
    "reskalnet_101x64p": ("KALN", "reskanet_101", 64, _DEEP, _LONG),
    "reskalnet_152x64p": ("KALN", "reskanet_152", 64, _DEEP, _LONG),
    "reskagnet_101x64p": ("KAGN", "reskanet_101", 64, _DEEP, _LONG),
    "reskagnet18": ("KAGN", "reskanet_18", 224, f"{_SHALLOW} norm_layer", {}),
    "reskagnet50": ("KAGN", "reskanet_50", 224, f"{_BIG} norm_layer", _NORMED),
    "reskagnet_bn50": ("BottleNeckKAGN", "reskanet_50", 224, f"{_BIG} norm_layer", _NORMED),
    "reskagnet101": ("KAGN", "reskanet_101", 224, f"{_BIG} norm_layer", _NORMED),
    "reskagnet152": ("KAGN", "reskanet_152", 224, f"{_BIG} norm_layer", _NORMED),
}

__all__ = []
for _name, (_family, _plan, _pixels, _order, _changes) in _FORMS.items():
    _defaults = {"affine": False, **_changes}
    globals()[_name] = builder(
        _name,
        _family,
        partial(_reskanet, plan=_plan, pixels=_pixels),
        f"groups {_order}",
        net=_plan,
        **_defaults,
    )
    __all__ += [_name]
