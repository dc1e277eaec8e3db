"""Shared code of the networks of torch-conv-kan: kanseg's own networks, built from the layers of
torch-conv-kan, and a table of the original names of their parts.
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

Arguments = dict[str, object]  # of a call, by name
Names = dict[str, str]  # name of a module in torch-conv-kan -> its name in kanseg
# (family, arguments) -> (network, names of its parts)
Assemble = Callable[[str, Arguments], tuple[nn.Module, Names]]

_SPLINE = ("spline_order", "grid_size", "base_activation", "grid_range")
# Options of the functions of a family; all others have `degree`.
OPTIONS: dict[str, tuple[str, ...]] = {
    "KAN": _SPLINE,
    "FastKAN": _SPLINE[1:],
    "WavKAN": ("wavelet_type", "wav_version"),
}
# Options of 3x3 convolutions: torch-conv-kan's helper for them has another bottleneck than the
# layer itself and the helper for 1x1 convolutions.
SPATIAL: dict[str, Arguments] = {"BottleNeckKAGN": {"dim_reduction": 8}}
DEFAULTS: Arguments = {
    "groups": 1,
    "degree": 3,
    "spline_order": 3,
    "grid_size": 5,
    "base_activation": nn.GELU,
    "grid_range": [-1, 1],
    "wavelet_type": "mexican_hat",
    "wav_version": "fast",
    "width_scale": 1,
    "affine": True,
    "norm_layer": nn.InstanceNorm2d,
    "dropout": 0.0,
    "dropout_linear": 0.25,
    "l1_decay": 0.0,
    "hidden_layer_dim": None,
}


def pick(arguments: Arguments, *names: str) -> Arguments:
    """The arguments with these names; missing ones are left out."""
    return {name: arguments[name] for name in names if name in arguments}


def own_options(family: str, arguments: Arguments) -> Arguments:
    """The options of the functions of a family."""
    return pick(arguments, *OPTIONS.get(family, ("degree",)))


def convolution(
    family: str,
    options: Arguments,
    *,
    spatial: Mapping[str, object] | None = None,
    l1_decay: float = 0.0,
) -> Conv:
    """(in_channels, out_channels, kernel_size, stride=, padding=, dilation=) -> layer of a family.

    Args:
        family: name in torch-conv-kan, such as "KAGN".
        options: of the layer.
        spatial: options that are added for kernels larger than 1x1.
        l1_decay: of the `L1` wrapper; 0 for none.
    """
    layer = getattr(convolutions, f"{family}Conv2DLayer")

    def conv(
        in_channels: int, out_channels: int, kernel_size: int, **conv_options: int
    ) -> nn.Module:
        own = dict(options)
        if kernel_size > 1:
            own |= spatial or {}
        module = layer(in_channels, out_channels, kernel_size, **conv_options, **own)
        return L1(module, l1_decay) if l1_decay > 0 else module

    return conv


def fixed(conv: Conv, kernel_size: int, **conv_options: int) -> Conv:
    """A convolution with this kernel, stride and padding, whatever it is called with."""
    return lambda in_channels, out_channels, *args, **kwargs: conv(
        in_channels, out_channels, kernel_size, **conv_options
    )


def one_layer(net: Callable[..., nn.Module], options: Arguments) -> Callable[[int, int], nn.Module]:
    """(in_features, out_features) -> flat network of one layer. Options that it does not have are
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
    """A network of kanseg (`net`) and torch-conv-kan's names of its parts (`original_names`)."""

    def __init__(self, net: nn.Module, names: Names):
        super().__init__()
        self.net = net
        self.original_names = {theirs: f"net.{ours}" for theirs, ours in names.items()}

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, C, H, W) -> raw logits: (B, classes) of a classifier, (B, classes, H, W) of a
        segmentation network, a tuple of seven of U2KANet.
        """
        y = self.net(x)
        return tuple(y) if isinstance(y, list) else y


class LegacyNetwork(_LegacyNetwork):
    """The network that a function of torch-conv-kan returns; `net` is a SegmentationModel or a
    ClassificationModel.
    """


class _CalledNetwork(_LegacyNetwork):
    """A network with the constructor of a class of torch-conv-kan."""

    family: ClassVar[str]
    assemble: ClassVar[Assemble]

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(
            *self.assemble(self.family, bind_call(type(self).__signature__, args, kwargs))
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: object) -> _CalledNetwork:
        """Load a network from a folder that huggingface_hub wrote: config.json with the arguments,
        model.safetensors with torch-conv-kan's weights. Nothing is downloaded.

        config.json cannot store a class, so norm_layer follows from the weights: BatchNorm2d if
        they have running statistics, else InstanceNorm2d. `changes` replace or complete the
        arguments of the file.

        Raises:
            ValueError: no such folder or file; weights that do not fit, as of `convert_state_dict`.
            TypeError: arguments that the network does not have.
        """
        from safetensors.torch import load_file

        config, weights = Path(folder) / "config.json", Path(folder) / "model.safetensors"
        if not weights.is_file():
            raise ValueError(
                f"{weights} is not a file: give a folder with model.safetensors and config.json."
                " Nothing is downloaded; use `huggingface_hub.snapshot_download` for that"
            )
        state = load_file(weights)
        arguments: Arguments = {}
        if config.is_file():
            arguments = json.loads(config.read_text())
        arguments["norm_layer"] = nn.InstanceNorm2d
        if any(key.endswith("running_mean") for key in state):
            arguments["norm_layer"] = nn.BatchNorm2d
        model = cls(**arguments | changes)
        model.load_state_dict(convert_state_dict(state, model))
        return model.eval()


def _signature_parts(order: str, changes: Arguments) -> Arguments:
    return {name: (DEFAULTS | changes)[name] for name in order.split()}


_DOC = (
    "torch-conv-kan's {name}, with {family} convolutions: kanseg's `{net}` with the original"
    " arguments and outputs. `convert_state_dict` converts its weights.{more}"
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
    """Create the function `name` of torch-conv-kan.

    Args:
        name: of the function.
        family: of its convolutions.
        make: assembles the network, or the class that the function calls.
        order: names of the parameters after input_channels and num_classes, in order.
        net: name of kanseg's network, for the docstring.
        more: end of the docstring.
        changes: default values that differ from DEFAULTS.
    """
    signature = call_signature("input_channels num_classes", **_signature_parts(order, changes))

    def build(*args: object, **kwargs: object) -> _LegacyNetwork:
        arguments = bind_call(signature, args, kwargs)
        return (
            make(**arguments) if isinstance(make, type) else LegacyNetwork(*make(family, arguments))
        )

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
    """Create the class `name` of torch-conv-kan, with the parameters `required` and `order`; other
    arguments as of `builder`.
    """
    body = {
        "__module__": module,
        "__doc__": _DOC.format(name=name, family=family, net=net, more=more),
        "family": family,
        "assemble": staticmethod(assemble),
    }
    body["__signature__"] = call_signature(required, **_signature_parts(order, changes))
    return type(name, (_CalledNetwork,), body)
