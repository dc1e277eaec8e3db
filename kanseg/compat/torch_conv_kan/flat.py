"""The flat layers and networks of torch-conv-kan under their names and signatures: KANLayer, KAN,
mlp_kan and their relatives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from kanseg.compat.torch_conv_kan.convolutions import FORMULAS
from kanseg.compat.torch_conv_kan.layer import _LegacyLayer, bind_call, call_signature
from kanseg.compat.torch_conv_kan.parts import L1
from kanseg.compat.torch_conv_kan.variants import FLAT_VARIANTS

# torch-conv-kan's name of a parameter -> ours
_INPUTS = ("input_features", "input_dim", "in_channels", "in_features", "input_size")
_OUTPUTS = ("output_features", "output_dim", "out_channels", "out_features", "output_size")
_ALIASES = (
    dict.fromkeys(_INPUTS, "in_channels")
    | dict.fromkeys(_OUTPUTS, "out_channels")
    | {
        "act": "base_activation",
        "num_grids": "grid_size",
    }
)


class _LegacyFlat(_LegacyLayer):
    """A flat layer with the constructor of torch-conv-kan: (..., in) -> (..., out)."""

    ndim = 0

    def __init__(self, *args: object, **kwargs: object):
        super().__init__()
        values = {
            _ALIASES.get(name, name): value
            for name, value in bind_call(type(self).__signature__, args, kwargs).items()
        }
        if "grid_min" in values:
            values["grid_range"] = [values.pop("grid_min"), values.pop("grid_max")]
        build = {
            name: values.pop(name)
            for name in ("in_channels", "out_channels", "base_activation")
            if name in values
        }
        self._build(
            **build,
            norm=nn.BatchNorm1d if self.family == "WavKAN" else nn.LayerNorm,
            options=values,
        )


def _flat(name: str, family: str, required: str, **defaults: object) -> type[_LegacyFlat]:
    doc = f"""torch-conv-kan's {name}: (..., in) -> (..., out).

    {FORMULAS[family]} The base branch reads the activated input. The norm is LayerNorm (WavKAN:
    BatchNorm1d; KACN and ReLUKAN: none). ReLUKAN has a bias and no base branch, WavKAN no mix.

    Raises:
        ValueError: options out of range, or an input with another last axis.
    """
    body = {
        "__module__": __name__,
        "__doc__": doc,
        "__signature__": call_signature(required, **defaults),
        "family": family,
    }
    return type(name, (_LegacyFlat,), body | {"variant": FLAT_VARIANTS[family]})


KANLayer = _flat(
    "KANLayer",
    "KAN",
    "input_features output_features",
    grid_size=5,
    spline_order=3,
    base_activation=nn.GELU,
    grid_range=[-1, 1],
)
FastKANLayer = _flat(
    "FastKANLayer",
    "FastKAN",
    "input_dim output_dim",
    **{
        "grid_min": -2.0,
        "grid_max": 2.0,
        "num_grids": 8,
        "use_base_update": True,
        "base_activation": nn.SiLU,
        "spline_weight_init_scale": 0.1,
    },
)
KALNLayer = _flat(
    "KALNLayer", "KALN", "input_features output_features", degree=3, base_activation=nn.SiLU
)
ChebyKANLayer = _flat("ChebyKANLayer", "KACN", "input_dim output_dim degree")
GRAMLayer = _flat("GRAMLayer", "KAGN", "in_channels out_channels", degree=3, act=nn.SiLU)
JacobiKANLayer = _flat(
    "JacobiKANLayer", "KAJN", "input_dim output_dim degree", a=1.0, b=1.0, act=nn.SiLU
)
BernsteinKANLayer = _flat("BernsteinKANLayer", "KABN", "input_dim output_dim degree", act=nn.SiLU)
ReLUKANLayer = _flat("ReLUKANLayer", "ReLUKAN", "input_size g k output_size", train_ab=True)
WavKANLayer = _flat("WavKANLayer", "WavKAN", "in_features out_features", wavelet_type="mexican_hat")
BottleNeckGRAMLayer = _flat(
    "BottleNeckGRAMLayer",
    "BottleNeckKAGN",
    "in_channels out_channels",
    degree=3,
    act=nn.SiLU,
    dim_reduction=8,
    min_internal=16,
)


class _LegacyNet(nn.Module):
    """A sequence of flat layers. `layers` holds them and the dropouts between them, with the same
    indices as in torch-conv-kan.
    """

    layer: ClassVar[type[_LegacyFlat]]

    def __init__(self, *args: object, **kwargs: object):
        super().__init__()
        options = bind_call(type(self).__signature__, args, kwargs)
        ignored = options.pop("kwargs", {})
        if ignored:
            warnings.warn(
                f"{type(self).__name__} ignores {', '.join(ignored)}, as torch-conv-kan does",
                stacklevel=2,
            )
        self.layers_hidden = list(options.pop("layers_hidden"))
        dropout, decay, first_dropout = (
            options.pop("dropout"),
            options.pop("l1_decay"),
            options.pop("first_dropout"),
        )
        if "grid_range" in options:
            options["grid_min"], options["grid_max"] = options["grid_range"]
        self.num_layers = len(self.layers_hidden) - 1
        self.layers = nn.ModuleList([nn.Dropout(dropout)] if dropout > 0 and first_dropout else [])
        for i, (inputs, outputs) in enumerate(
            zip(self.layers_hidden[:-1], self.layers_hidden[1:], strict=True)
        ):
            last = i == self.num_layers - 1
            known = options | {"in_channels": inputs, "out_channels": outputs}
            arguments = {}
            for name in self.layer.__signature__.parameters:
                if _ALIASES.get(name, name) in known:
                    arguments[name] = known[_ALIASES.get(name, name)]
            layer = self.layer(**arguments)
            self.layers.append(L1(layer, decay) if decay > 0 and not last else layer)
            if dropout > 0 and not last:
                self.layers.append(nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(B, layers_hidden[0]) -> (B, layers_hidden[-1])."""
        for layer in self.layers:
            x = layer(x)
        return x


def _net(name: str, layer: type[_LegacyFlat], **defaults: object) -> type[_LegacyNet]:
    doc = f"""torch-conv-kan's {name}, a sequence of `{layer.__name__}` layers.

    (B, layers_hidden[0]) -> (B, layers_hidden[-1]).
    `l1_decay` adds l1_decay * sign(w) to the gradients of all layers but the last (see `L1`).
    Further keywords are ignored, as in torch-conv-kan, with a warning.
    """
    body = {
        "__module__": __name__,
        "__doc__": doc,
        "__signature__": call_signature("layers_hidden", "kwargs", **defaults),
        "layer": layer,
    }
    return type(name, (_LegacyNet,), body)


_DECAY = {"dropout": 0.0, "l1_decay": 0.0}
_FIRST = {"first_dropout": True}
_DEGREE = {**_DECAY, "degree": 3, "base_activation": nn.SiLU, **_FIRST}
_EXPONENTS = {"degree": 3, "a": 1, "b": 1, "base_activation": nn.SiLU}
_SPLINE = {"grid_size": 5, "spline_order": 3, "base_activation": nn.GELU, "grid_range": [-1, 1]}
_RBF = {
    "grid_range": [-2, 2],
    "grid_size": 8,
    "use_base_update": True,
    "base_activation": nn.SiLU,
    "spline_weight_init_scale": 0.1,
}
KAN = _net("KAN", KANLayer, dropout=0.0, **_SPLINE, l1_decay=0.0, **_FIRST)
FastKAN = _net("FastKAN", FastKANLayer, **_DECAY, **_RBF, **_FIRST)
KALN = _net("KALN", KALNLayer, **_DEGREE)
KACN = _net("KACN", ChebyKANLayer, **_DECAY, degree=3, **_FIRST)
KAGN = _net("KAGN", GRAMLayer, **_DEGREE)
KAJN = _net("KAJN", JacobiKANLayer, **_DECAY, **_EXPONENTS, **_FIRST)
KABN = _net("KABN", BernsteinKANLayer, **_DEGREE)
ReLUKAN = _net("ReLUKAN", ReLUKANLayer, **_DECAY, g=1, k=1, train_ab=True, **_FIRST)
WavKAN = _net("WavKAN", WavKANLayer, **_DECAY, **_FIRST, wavelet_type="mexican_hat")
BottleNeckKAGN = _net(
    "BottleNeckKAGN", BottleNeckGRAMLayer, **_DEGREE, dim_reduction=8, min_internal=16
)


def _builder(name: str, net: type[_LegacyNet], **defaults: object) -> Callable[..., _LegacyNet]:
    signature = call_signature("layers_hidden", **defaults)

    def build(*args: object, **kwargs: object) -> _LegacyNet:
        values = bind_call(signature, args, kwargs)
        # Parameters that the network does not have are passed only if they were set, so that it
        # warns of them.
        given = {}
        for key, value in values.items():
            is_known = key in net.__signature__.parameters
            if is_known or value != signature.parameters[key].default:
                given[key] = value
        return net(**given)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"A `{net.__name__}` with torch-conv-kan's defaults for {name}."
    build.__signature__ = signature
    return build


_GELU = {"dropout": 0.0, "degree": 3, "base_activation": nn.GELU, "l1_decay": 0.0}
_PLAIN = {"dropout": 0.0, "degree": 3, "l1_decay": 0.0}
_GRID = {"base_activation": nn.GELU, "grid_range": [-1, 1], "l1_decay": 0.0}
mlp_kan = _builder("mlp_kan", KAN, dropout=0.0, grid_size=5, spline_order=3, **_GRID)
mlp_fastkan = _builder("mlp_fastkan", FastKAN, dropout=0.0, grid_size=5, **_GRID)
mlp_kaln = _builder("mlp_kaln", KALN, **_GELU)
mlp_kacn = _builder("mlp_kacn", KACN, **_PLAIN)
mlp_kagn = _builder("mlp_kagn", KAGN, **_GELU)
mlp_kajn = _builder("mlp_kajn", KAJN, **_PLAIN, a=1.0, b=1.0)
mlp_kabn = _builder("mlp_kabn", KABN, **_GELU)
# a and b have no effect in torch-conv-kan; the network warns of other values than the default.
mlp_relukan = _builder("mlp_relukan", ReLUKAN, dropout=0.0, a=1, b=1, train_ab=True, l1_decay=0.0)
mlp_wav_kan = _builder("mlp_wav_kan", WavKAN, dropout=0.0, wavelet_type="mexican_hat", l1_decay=0.0)
mlp_bottleneck_kagn = _builder(
    "mlp_bottleneck_kagn", BottleNeckKAGN, **_GELU, dim_reduction=8, min_internal=16
)

_NETS = [
    "KAN",
    "FastKAN",
    "KALN",
    "KACN",
    "KAGN",
    "KAJN",
    "KABN",
    "ReLUKAN",
    "WavKAN",
    "BottleNeckKAGN",
]
_LAYERS = [
    "KANLayer",
    "FastKANLayer",
    "KALNLayer",
    "ChebyKANLayer",
    "GRAMLayer",
    "JacobiKANLayer",
    "BernsteinKANLayer",
    "ReLUKANLayer",
    "WavKANLayer",
]
_BUILDERS = [
    "kan",
    "fastkan",
    "kaln",
    "kacn",
    "kagn",
    "kajn",
    "kabn",
    "relukan",
    "wav_kan",
    "bottleneck_kagn",
]
__all__ = [*_NETS, *_LAYERS, "BottleNeckGRAMLayer", *(f"mlp_{name}" for name in _BUILDERS)]
