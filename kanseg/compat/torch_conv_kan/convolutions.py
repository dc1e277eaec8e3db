"""The convolutions of torch-conv-kan under their names and signatures, from KANConv1DLayer to
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
# Parameters after (input_dim, output_dim, kernel_size), in order. norm_layer is completed by the
# number of spatial axes, such as InstanceNorm2d.
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
# Further options, which torch-conv-kan reads from **norm_kwargs.
_FROM_NORM_KWARGS: dict[str, dict[str, object]] = {
    "KAJN": {"a": 1.0, "b": 1.0},
    "BottleNeckKAGN": {"min_internal": 16},
    "BottleNeckReLUKAN": {"dim_reduction": 4, "min_internal": 16},
}
_WAV_VERSIONS = ("base", "fast", "fast_plus_one")
# Arguments of `_LegacyLayer._build`; all others are options of the basis.
_BUILD = ("kernel_size", "groups", "padding", "stride", "dilation", "dropout", "base_activation")


class _LegacyConv(_LegacyLayer):
    """A convolution with the constructor of torch-conv-kan."""

    fourth_parameter: ClassVar[str]  # name of the parameter after kernel_size

    def __init__(self, *args: object, **kwargs: object):
        super().__init__()
        # torch-conv-kan's README calls KANConv2DLayer(in, out, spline_order, kernel_size=3, ...),
        # which raises a TypeError in torch-conv-kan, since kernel_size is the third parameter.
        # Accept the call for families whose fourth parameter is an option of the basis.
        if len(args) >= 3 and "kernel_size" in kwargs and self.fourth_parameter not in _PLACE:
            args = (*args[:2], kwargs.pop("kernel_size"), *args[2:])
        values = bind_call(type(self).__signature__, args, kwargs)
        norm_kwargs = values.pop("norm_kwargs", {})
        options = {
            name: norm_kwargs.pop(name, value)
            for name, value in _FROM_NORM_KWARGS.get(self.family, {}).items()
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


_DOC = """torch-conv-kan's {name}: (B, input_dim, {shape}) -> (B, output_dim, {shape}'), with the
output size of `torch.nn.Conv{n}d`.

    {formula}

    Computes the same function from the same arguments (IvanDrokin,
    github.com/IvanDrokin/torch-conv-kan, MIT). Each group has its own norm. `convert_state_dict`
    converts its weights. For new work use `kanseg.layers.KANConv{n}d`, which has the functions of
    the literature.

    Raises:
        TypeError: a call that does not fit the signature.
        ValueError: channels not divisible by groups, options out of range, or an input of another
            shape.
    """
FORMULAS = {
    "KAN": "PReLU(norm(base(GELU(x)) + B-splines of x)).",
    "FastKAN": "base(SiLU(x)) + Gaussian radial functions of norm(x), without activation.",
    "KALN": (
        "SiLU(norm(base(x) + Legendre polynomials of u)), u = x scaled to [-1, 1] by the minimum"
        " and maximum of the whole batch: the output\n    of a sample depends on the other samples"
        " of the batch, also in evaluation. For a constant batch, for\n    which torch-conv-kan"
        " returns NaN, the output is finite."
    ),
    "KACN": (
        "norm(Chebyshev polynomials of tanh(x)), without base branch, computed by the recurrence,"
        " whose gradient is finite everywhere."
    ),
    "KAGN": (
        "SiLU(norm(base(SiLU(x)) + SiLU(Gram-like polynomials of tanh(x)))), with learned"
        " recurrence coefficients."
    ),
    "KAJN": (
        "SiLU(norm(base(x) + Jacobi polynomials of tanh(x))), with the exponents a and b as further"
        " keywords, 1 by default."
    ),
    "KABN": (
        "SiLU(norm(base(x) + Bernstein polynomials of sigmoid(x))). In torch-conv-kan these are all"
        " constant 1, a bug that is not copied."
    ),
    "ReLUKAN": "SiLU(norm(base(SiLU(x)) + squared products of two ReLUs with free ends)).",
    "WavKAN": (
        "norm(base(SiLU(x)) + mix(wavelets of (x - t) / s)), one wavelet for each pair of channels."
    ),
    "BottleNeckKAGN": (
        "KAGN with a 1x1 convolution before tanh and one after the functions; further keyword:"
        " min_internal=16."
    ),
    "BottleNeckReLUKAN": (
        "ReLUKAN with a 1x1 convolution before and one after the functions; further keywords:"
        " dim_reduction=4, min_internal=16."
    ),
}


def _family(family: str) -> list[type[_LegacyConv]]:
    """The classes of a family for 1, 2 and 3 spatial axes."""
    classes = []
    for n in (1, 2, 3):
        name = f"{family}Conv{n}DLayer"
        defaults = dict(_PARAMETERS[family])
        fourth_parameter = next(iter(defaults))
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
            "fourth_parameter": fourth_parameter,
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
