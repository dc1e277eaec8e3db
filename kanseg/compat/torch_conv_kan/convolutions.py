"""The convolutions of torch-conv-kan under their names and signatures: KANConv1DLayer ...
BottleNeckReLUKANConv3DLayer.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from kanseg.compat.torch_conv_kan.layer import _LegacyLayer, bind_call, call_signature
from kanseg.compat.torch_conv_kan.variants import CONV_VARIANTS

_PLACE = {"groups": 1, "padding": 0, "stride": 1, "dilation": 1}
_END = {"dropout": 0.0, "norm_layer": "InstanceNorm"}
_DEGREE = {"degree": 3, **_PLACE, **_END}
_BUMPS = {"g": 5, "k": 3, "train_ab": True, **_PLACE, **_END}
# What follows (input_dim, output_dim, kernel_size), in order. norm_layer: the class for the layer's
# number of axes.
_PARAMETERS: dict[str, dict[str, object]] = {
    "KAN": {
        "spline_order": 3,
        **_PLACE,
        "grid_size": 5,
        "base_activation": nn.GELU,
        "grid_range": [-1, 1],
        **_END,
    },
    "FastKAN": {
        **_PLACE,
        "grid_size": 8,
        "base_activation": nn.SiLU,
        "grid_range": [-2, 2],
        **_END,
    },
    "KALN": _DEGREE,
    "KACN": _DEGREE,
    "KAGN": _DEGREE,
    "KAJN": _DEGREE,
    "KABN": _DEGREE,
    "ReLUKAN": _BUMPS,
    "WavKAN": {
        **_PLACE,
        "dropout": 0.0,
        "wavelet_type": "mexican_hat",
        "norm_layer": "BatchNorm",
        "wav_version": "fast",
    },
    "BottleNeckKAGN": {**_DEGREE, "dim_reduction": 4},
    "BottleNeckReLUKAN": _BUMPS,
}
# Options that torch-conv-kan takes out of **norm_kwargs.
_HIDDEN: dict[str, dict[str, object]] = {
    "KAJN": {"a": 1.0, "b": 1.0},
    "BottleNeckKAGN": {"min_internal": 16},
    "BottleNeckReLUKAN": {"dim_reduction": 4, "min_internal": 16},
}
_WAV_VERSIONS = ("base", "fast", "fast_plus_one")
_BUILD = ("kernel_size", "groups", "padding", "stride", "dilation", "dropout", "base_activation")


class _LegacyConv(_LegacyLayer):
    """Reads a call as torch-conv-kan's convolutions do."""

    own_first: ClassVar[str]  # the parameter after kernel_size

    def __init__(self, *args: object, **kwargs: object):
        super().__init__()
        # torch-conv-kan's README calls KANConv2DLayer(in, out, spline_order, kernel_size=3, ...), a
        # TypeError there: kernel_size is third. Read it as meant, where the family has an option of
        # its own in that place.
        if len(args) >= 3 and "kernel_size" in kwargs and self.own_first not in _PLACE:
            args = (*args[:2], kwargs.pop("kernel_size"), *args[2:])
        values = bind_call(type(self).__signature__, args, kwargs)
        norm_kwargs = values.pop("norm_kwargs", {})
        options = {
            name: norm_kwargs.pop(name, value)
            for name, value in _HIDDEN.get(self.family, {}).items()
        }
        norm_layer = values.pop("norm_layer")
        in_channels, out_channels = values.pop("input_dim"), values.pop("output_dim")
        build = {name: values.pop(name) for name in _BUILD if name in values}
        options |= values
        if options.get("wav_version", "fast") not in _WAV_VERSIONS:
            raise ValueError(
                f"unknown wav_version {options['wav_version']!r} (known:"
                f" {', '.join(_WAV_VERSIONS)}; all compute the same)"
            )
        self._build(
            in_channels,
            out_channels,
            norm=lambda channels: norm_layer(channels, **norm_kwargs),
            options=options,
            **build,
        )


_DOC = """torch-conv-kan's {name}, exactly: (B, input_dim, {shape}) -> (B, output_dim, {shape}') as
of `torch.nn.Conv{n}d`.

    {formula}

    The call is as there (IvanDrokin, github.com/IvanDrokin/torch-conv-kan, MIT); groups have each
    their own norm. For weights from there see `convert_state_dict`. For new work take
    `kanseg.layers.KANConv{n}d`, whose functions are the textbook ones.

    Raises:
        TypeError: a call that does not fit the signature.
        ValueError: channels not divisible by groups, options out of range, or an input of another
        shape.
    """
FORMULAS = {
    "KAN": "PReLU(norm(base(GELU(x)) + B-splines of x)).",
    "FastKAN": "base(SiLU(x)) + Gaussian radial functions of norm(x); nothing follows.",
    "KALN": (
        "SiLU(norm(base(x) + Legendre polynomials of u)), u = x scaled to [-1, 1] by the least and"
        " greatest value of the whole batch: a sample's\n    output depends on its batch mates, in"
        " evaluation too. A batch of one value, NaN there, is finite here."
    ),
    "KACN": (
        "norm(Chebyshev polynomials of tanh(x)), without base branch. By the recurrence, so that"
        " the gradient is finite everywhere."
    ),
    "KAGN": (
        "SiLU(norm(base(SiLU(x)) + SiLU(Gram-like polynomials of tanh(x)))), with learned"
        " recurrence coefficients."
    ),
    "KAJN": (
        "SiLU(norm(base(x) + Jacobi polynomials of tanh(x))); their exponents are the extra"
        " keywords a and b, 1 by default."
    ),
    "KABN": (
        "SiLU(norm(base(x) + Bernstein polynomials of sigmoid(x))). There these are all constant 1,"
        " a bug that is not copied."
    ),
    "ReLUKAN": "SiLU(norm(base(SiLU(x)) + squared products of two ReLUs with free ends)).",
    "WavKAN": (
        "norm(base(SiLU(x)) + mix(wavelets of (x - t) / s)), a wavelet for each pair of channels."
    ),
    "BottleNeckKAGN": (
        "KAGN with a 1x1 convolution before tanh and one after the functions; extra keyword"
        " min_internal=16."
    ),
    "BottleNeckReLUKAN": (
        "ReLUKAN with a 1x1 convolution before and one after the functions; extra keywords"
        " dim_reduction=4, min_internal=16."
    ),
}


def _family(family: str) -> list[type[_LegacyConv]]:
    """The classes of a family for 1, 2 and 3 axes."""
    classes = []
    for n in (1, 2, 3):
        name = f"{family}Conv{n}DLayer"
        defaults = dict(_PARAMETERS[family])
        own_first = next(iter(defaults))
        defaults["norm_layer"] = getattr(nn, f"{defaults['norm_layer']}{n}d")
        body = {
            "__module__": __name__,
            "__doc__": _DOC.format(
                name=name, shape=", ".join("DHW"[-n:]), n=n, formula=FORMULAS[family]
            ),
            "__signature__": call_signature(
                "input_dim output_dim kernel_size", "norm_kwargs", **defaults
            ),
            "family": family,
            "variant": CONV_VARIANTS[family],
            "ndim": n,
            "own_first": own_first,
        }
        classes.append(type(name, (_LegacyConv,), body))
    return classes


KANConv1DLayer, KANConv2DLayer, KANConv3DLayer = _family("KAN")
FastKANConv1DLayer, FastKANConv2DLayer, FastKANConv3DLayer = _family("FastKAN")
KALNConv1DLayer, KALNConv2DLayer, KALNConv3DLayer = _family("KALN")
KACNConv1DLayer, KACNConv2DLayer, KACNConv3DLayer = _family("KACN")
KAGNConv1DLayer, KAGNConv2DLayer, KAGNConv3DLayer = _family("KAGN")
KAJNConv1DLayer, KAJNConv2DLayer, KAJNConv3DLayer = _family("KAJN")
KABNConv1DLayer, KABNConv2DLayer, KABNConv3DLayer = _family("KABN")
ReLUKANConv1DLayer, ReLUKANConv2DLayer, ReLUKANConv3DLayer = _family("ReLUKAN")
WavKANConv1DLayer, WavKANConv2DLayer, WavKANConv3DLayer = _family("WavKAN")
BottleNeckKAGNConv1DLayer, BottleNeckKAGNConv2DLayer, BottleNeckKAGNConv3DLayer = _family(
    "BottleNeckKAGN"
)
BottleNeckReLUKANConv1DLayer, BottleNeckReLUKANConv2DLayer, BottleNeckReLUKANConv3DLayer = _family(
    "BottleNeckReLUKAN"
)

__all__ = [f"{family}Conv{n}DLayer" for family in CONV_VARIANTS for n in (1, 2, 3)]
