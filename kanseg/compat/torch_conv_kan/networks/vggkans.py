"""VGGs: vggkan and its relatives, VGGKAGN and VGGKAGN_BN."""

from __future__ import annotations

import re

from torch import Tensor, nn

from kanseg.compat.torch_conv_kan import flat
from kanseg.compat.torch_conv_kan.networks.skeleton import (
    SPATIAL,
    Arguments,
    Names,
    builder,
    convolution,
    network_class,
    one_layer,
    own_options,
    pick,
)
from kanseg.encoders import Encoder
from kanseg.encoders.vggkan import VARIANTS, vggkan_encoder
from kanseg.models.classification import ClassificationModel

# head_type in torch-conv-kan -> (our head, names of its layers)
_HEADS: dict[str, tuple[str, Names]] = {
    "Linear": ("linear", {"classifier.1": "classification_head.3"}),
    "KAN": ("kan", {"classifier": "classification_head.3"}),
    "HiddenKAN": (
        "hidden_kan",
        {"classifier.0": "classification_head.2", "classifier.2": "classification_head.4"},
    ),
    "VGG": ("mlp", {f"classifier.{i}": f"classification_head.{i + 2}" for i in (0, 3, 6)}),
}
# Flat networks of the heads; all other families have mlp_kagn.
_NETS = {
    "KAN": "mlp_kan",
    "FastKAN": "mlp_fastkan",
    "KALN": "mlp_kaln",
    "KACN": "mlp_kacn",
    "WavKAN": "mlp_wav_kan",
}


class _DeepestFeature(nn.Module):
    """A network without head: (B, C, H, W) -> the deepest feature of the encoder."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[-1]


def _check(arguments: Arguments) -> tuple[str, str]:
    """Check the arguments; return the number and the layout of vgg_type."""
    match = re.fullmatch(r"VGG(11|13|16|19)(v[234])?(sa)?", str(arguments["vgg_type"]))
    if match is None:
        raise ValueError(
            "vgg_type must be VGG11, VGG13, VGG16 or VGG19, optionally followed by v2, v3 or v4,"
            f" got {arguments['vgg_type']!r}"
        )
    if match[3] or arguments.get("last_attention"):
        raise ValueError(
            "torch-conv-kan's attention layers are not part of kanseg.compat:"
            f" vgg_type={arguments['vgg_type']!r},"
            f" last_attention={arguments.get('last_attention', False)!r}; take a vgg_type without"
            " 'sa', and last_attention=False"
        )
    if arguments["head_type"] is not None and arguments["head_type"] not in _HEADS:
        raise ValueError(
            f"head_type must be one of {', '.join(_HEADS)} or None (features only), got"
            f" {arguments['head_type']!r}"
        )
    rows, columns = arguments["expected_feature_shape"]
    if rows != columns:
        raise ValueError(
            f"expected_feature_shape must be square, got {arguments['expected_feature_shape']!r}"
        )
    return match[1], match[2] or "v1"


def _vgg(family: str, arguments: Arguments) -> tuple[nn.Module, Names]:
    number, layout = _check(arguments)
    options = own_options(family, arguments) | pick(arguments, "affine", "norm_layer")
    spatial, decay = SPATIAL.get(family, {}), arguments["l1_decay"]
    conv = convolution(
        family, options, spatial=spatial | pick(arguments, "groups", "dropout"), l1_decay=decay
    )
    stem = convolution(family, options, spatial=spatial, l1_decay=decay)
    encoder = vggkan_encoder(
        VARIANTS[f"vggkan{number}"],
        arguments["input_channels"],
        conv=conv,
        stem=stem,
        width=16 * arguments["width_scale"],
        layout=layout,
    )
    places = [(s, j) for s, stage in enumerate(encoder.stages) for j in range(len(stage))]
    for s, j in places:
        module = encoder.stages[s][j]
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = False  # torch-conv-kan drops the last row of an odd height
    names = {f"features.{i}": f"encoder.stages.{s}.{j}" for i, (s, j) in enumerate(places)}
    if arguments["head_type"] is None:
        return _DeepestFeature(encoder), names
    head, inside = _HEADS[arguments["head_type"]]
    dropout = arguments["dropout_linear"]
    linear = one_layer(
        getattr(flat, _NETS.get(family, "mlp_kagn")),
        own_options(family, arguments) | {"dropout": dropout, "l1_decay": arguments["l1_decay"]},
    )
    if head == "kan":
        dropout = 0.0  # the flat network has its own
    sizes = {
        "classes": arguments["num_classes"],
        "pool_size": arguments["expected_feature_shape"][0],
    }
    net = ClassificationModel(encoder, linear=linear, head=head, head_dropout=dropout, **sizes)
    return net, names | inside


_BEHIND = (
    "dropout l1_decay dropout_linear vgg_type head_type expected_feature_shape width_scale affine"
    " norm_layer"
)
_ATTENTION = "last_attention sa_inner_projection"
_OWN = {
    "vgg_type": "VGG11",
    "head_type": "Linear",
    "expected_feature_shape": (7, 7),
    "affine": False,
    "net": "vggkan11",
}
_NO_ATTENTION = {**_OWN, "last_attention": False, "sa_inner_projection": None}
_CLASS = {**_NO_ATTENTION, "module": __name__}
_GRID = "groups grid_size base_activation grid_range"
_POSITIONAL = "input_channels num_classes"
VGGKAGN = network_class(
    "VGGKAGN", "KAGN", _vgg, _POSITIONAL, f"groups degree {_BEHIND} {_ATTENTION}", **_CLASS
)
VGGKAGN_BN = network_class(
    "VGGKAGN_BN",
    "BottleNeckKAGN",
    _vgg,
    _POSITIONAL,
    f"groups degree {_BEHIND} {_ATTENTION}",
    **_CLASS,
)
vggkan = builder(
    "vggkan", "KAN", _vgg, f"{_GRID.replace('groups', 'groups spline_order')} {_BEHIND}", **_OWN
)
fast_vggkan = builder("fast_vggkan", "FastKAN", _vgg, f"{_GRID} {_BEHIND}", **_OWN)
vggkaln = builder("vggkaln", "KALN", _vgg, f"groups degree {_BEHIND}", **_OWN)
vggkacn = builder("vggkacn", "KACN", _vgg, f"groups degree {_BEHIND}", **_OWN)
vggkagn = builder(
    "vggkagn", "KAGN", VGGKAGN, f"groups degree {_BEHIND} {_ATTENTION}", **_NO_ATTENTION
)
vggkagn_bn = builder(
    "vggkagn_bn",
    "BottleNeckKAGN",
    VGGKAGN_BN,
    f"groups degree {_BEHIND} {_ATTENTION}",
    **_NO_ATTENTION,
)
_WAVELETS = f"groups wavelet_type wav_version {_BEHIND}".replace(
    "affine norm_layer", "norm_layer affine"
)
vgg_wav_kan = builder("vgg_wav_kan", "WavKAN", _vgg, _WAVELETS, **_OWN)

__all__ = [
    "VGGKAGN",
    "VGGKAGN_BN",
    "fast_vggkan",
    "vgg_wav_kan",
    "vggkacn",
    "vggkagn",
    "vggkagn_bn",
    "vggkaln",
    "vggkan",
]
