"""What the networks of torch-conv-kan have in common here: kanseg's own builders, legacy layers as
their parts, and a table of names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from kanseg.compat.torch_conv_kan import convolutions
from kanseg.compat.torch_conv_kan.convert import convert_state_dict
from kanseg.compat.torch_conv_kan.layer import bind_call, call_signature
from kanseg.compat.torch_conv_kan.parts import L1
from kanseg.layers.blocks import Conv

Values = dict[str, object]  # the arguments of a call by name
Names = dict[str, str]  # what a module is called there -> what it is called here
Assemble = Callable[
    [str, Values], tuple[nn.Module, Names]
]  # (family, arguments) -> network and table

_SPLINE = ("spline_order", "grid_size", "base_activation", "grid_range")
OPTIONS: dict[str, tuple[str, ...]] = {
    "KAN": _SPLINE,
    "FastKAN": _SPLINE[1:],
    "WavKAN": ("wavelet_type", "wav_version"),
}  # all others: degree
# torch-conv-kan's 3x3 helper has another bottleneck than the layer itself, which its 1x1 helper
# leaves alone.
SPATIAL: dict[str, Values] = {"BottleNeckKAGN": {"dim_reduction": 8}}
DEFAULTS: Values = {
    **{
        "groups": 1,
        "degree": 3,
        "spline_order": 3,
        "grid_size": 5,
        "base_activation": nn.GELU,
        "grid_range": [-1, 1],
    },
    **{
        "wavelet_type": "mexican_hat",
        "wav_version": "fast",
        "width_scale": 1,
        "affine": True,
        "norm_layer": nn.InstanceNorm2d,
    },
    **{"dropout": 0.0, "dropout_linear": 0.25, "l1_decay": 0.0, "hidden_layer_dim": None},
}


def pick(values: Values, *names: str) -> Values:
    """Those of the named arguments that there are."""
    return {name: values[name] for name in names if name in values}


def own_options(family: str, values: Values) -> Values:
    """The options of the family's functions."""
    return pick(values, *OPTIONS.get(family, ("degree",)))


def convolution(
    family: str,
    options: Values,
    *,
    spatial: Mapping[str, object] | None = None,
    l1_decay: float = 0.0,
) -> Conv:
    """(in_channels, out_channels, kernel_size, stride=, padding=, dilation=) -> legacy layer;
    `spatial` are options of kernels larger than 1x1.
    """
    layer = getattr(convolutions, f"{family}Conv2DLayer")

    def conv(in_channels: int, out_channels: int, kernel_size: int, **place: int) -> nn.Module:
        own = {**options, **(spatial or {})} if kernel_size > 1 else options
        built = layer(in_channels, out_channels, kernel_size, **place, **own)
        return L1(built, l1_decay) if l1_decay > 0 else built

    return conv


def fixed(conv: Conv, kernel_size: int, **place: int) -> Conv:
    """A convolution of this kernel, stride and padding, whatever the builder asks for."""
    return lambda in_channels, out_channels, *args, **kwargs: conv(
        in_channels, out_channels, kernel_size, **place
    )


def one_layer(net: Callable[..., nn.Module], options: Values) -> Callable[[int, int], nn.Module]:
    """(in_features, out_features) -> flat net of one layer; options that the net does not have are
    left out.
    """
    known = net.__signature__.parameters
    return lambda in_features, out_features: net(
        [in_features, out_features],
        **{key: value for key, value in options.items() if key in known},
    )


def residual_names(theirs: str, ours: str) -> Names:
    """The names inside a residual block."""
    inside = {"conv1": "body.0", "conv2": "body.1", "conv3": "body.2", "downsample": "shortcut"}
    return {f"{theirs}.{a}": f"{ours}.{b}" for a, b in inside.items()}


class _LegacyNetwork(nn.Module):
    """`net` computes, and is kanseg's own network; `original_names` says what its parts are called
    in torch-conv-kan.
    """

    def __init__(self, net: nn.Module, names: Names):
        super().__init__()
        self.net = net
        self.original_names = {theirs: f"net.{ours}" for theirs, ours in names.items()}

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, C, H, W) -> raw logits: (B, classes) of a classifier, (B, classes, H, W) of a
        segmentation network, U2KANet's seven of them.
        """
        y = self.net(x)
        return tuple(y) if isinstance(y, list) else y


class LegacyNetwork(_LegacyNetwork):
    """What the functions of torch-conv-kan make. `net` is kanseg's own network (a
    SegmentationModel, a ClassificationModel).
    """


class _CalledNetwork(_LegacyNetwork):
    """Reads a call as the network classes of torch-conv-kan do."""

    family: ClassVar[str]
    assemble: ClassVar[Assemble]

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(
            *self.assemble(self.family, bind_call(type(self).__signature__, args, kwargs))
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: object) -> _CalledNetwork:
        """The network of a folder as huggingface_hub writes it: config.json with the arguments,
        model.safetensors in torch-conv-kan's layout.

        config.json cannot hold a class, so norm_layer is read off the weights: BatchNorm2d where
        they have running statistics, else InstanceNorm2d. `changes` are arguments that replace or
        complete the file's. Nothing is downloaded.

        Raises:
            ValueError: no such folder or file; weights that do not fit, as of `convert_state_dict`.
            TypeError: arguments that the network does not have.
        """
        from safetensors.torch import load_file

        config, weights = Path(folder) / "config.json", Path(folder) / "model.safetensors"
        if not weights.is_file():
            raise ValueError(
                f"{weights} is no file: give a folder with model.safetensors and config.json."
                " Nothing is downloaded here; `huggingface_hub.snapshot_download` fetches such a"
                " folder"
            )
        state = load_file(weights)
        values = {
            "norm_layer": (
                nn.BatchNorm2d
                if any(key.endswith("running_mean") for key in state)
                else nn.InstanceNorm2d
            )
        }
        stored = json.loads(config.read_text()) if config.is_file() else {}
        stored.pop("norm_layer", None)  # at best the text of a class
        model = cls(**values | stored | changes)
        model.load_state_dict(convert_state_dict(state, model))
        return model.eval()


def _signature_parts(order: str, changes: Values) -> Values:
    return {name: (DEFAULTS | changes)[name] for name in order.split()}


_DOC = (
    "torch-conv-kan's {name}, of {family} convolutions, on kanseg's `{net}`: the same call, the"
    " same function, weights by `convert_state_dict`.{more}"
)


def builder(
    name: str,
    family: str,
    make: Assemble | type[_CalledNetwork],
    order: str,
    *,
    net: str,
    more: str = "",
    **changes: object,
) -> Callable[..., _LegacyNetwork]:
    """The function `name`; `order` are its arguments after input_channels and num_classes,
    `changes` defaults that differ from DEFAULTS.
    """
    signature = call_signature("input_channels num_classes", **_signature_parts(order, changes))

    def build(*args: object, **kwargs: object) -> _LegacyNetwork:
        values = bind_call(signature, args, kwargs)
        return make(**values) if isinstance(make, type) else LegacyNetwork(*make(family, values))

    build.__name__ = build.__qualname__ = name
    build.__doc__ = _DOC.format(name=name, family=family, net=net, more=more)
    build.__signature__ = signature
    return build


def network_class(
    name: str,
    family: str,
    assemble: Assemble,
    required: str,
    order: str,
    *,
    module: str,
    net: str,
    more: str = "",
    **changes: object,
) -> type[_CalledNetwork]:
    """The class `name`; arguments as of `builder`."""
    body = {
        "__module__": module,
        "__doc__": _DOC.format(name=name, family=family, net=net, more=more),
        "family": family,
        "assemble": staticmethod(assemble),
    }
    body["__signature__"] = call_signature(required, **_signature_parts(order, changes))
    return type(name, (_CalledNetwork,), body)
