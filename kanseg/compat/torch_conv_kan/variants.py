"""The differences between the families of torch-conv-kan, as tables: a row per family, for its
convolutions and for its flat layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import NamedTuple

from torch import nn

from kanseg.bases import create_basis
from kanseg.compat.torch_conv_kan.bases import ActivatedGram, FreeBumps, PairedWavelets
from kanseg.layers.regularization import NoiseInjection

Options = Mapping[str, object]


class Site(NamedTuple):
    """The layer that a basis is created for.

    Args:
        in_channels, out_channels: of the functions, inside a bottleneck.
        groups: of the convolution.
        taps: number of entries of the kernel.
        activation: creates the activation of the layer.
    """

    in_channels: int
    out_channels: int
    groups: int
    taps: int
    activation: Callable[[], nn.Module]


@dataclass(frozen=True)
class Variant:
    """A row of the tables below.

    Args:
        basis: (site, options) -> module, (B, C, *S) -> (B, C, K, *S), or with `pairwise` (B, O, C /
            groups, *S).
        domain: name of the domain map before the basis.
        base: whether there is a base branch.
        base_activation: whether the base branch reads the activated input, or x itself.
        norm: "after" the sum of the branches, "before" the domain map, or None.
        activation: after the norm: "prelu" (one slope per group), "act" (the activation of the
            layer) or None.
        dropout_at: "input" of both branches, "branch" (input of the functions' branch), "argument"
            of the functions, "values" of the functions, or "output".
        dropout: probability -> module; None for torch.nn.Dropout1d/2d/3d.
        bottleneck: whether there are 1x1 convolutions before and after the basis.
        pairwise: one function per (output, input) pair; a depthwise convolution sums them and a 1x1
            convolution mixes the outputs.
        biased: names of the parts that have a bias.
        init, base_init: names in INITIAL_STD, for the weights of the functions and of the base
            branch.
        nested: whether the functions of a lower degree are the first ones of a higher degree.
        degree_major: whether `poly_weights` are stored degree-major (j * C + c) instead of
            channel-major (c * K + j).
    """

    basis: Callable[[Site, Options], nn.Module]
    domain: str = "identity"
    base: bool = True
    base_activation: bool = True
    norm: str | None = "after"
    activation: str | None = "act"
    dropout_at: str = "output"
    dropout: Callable[[float], nn.Module] | None = None
    bottleneck: bool = False
    pairwise: bool = False
    biased: tuple[str, ...] = ()
    init: str = "fan_in"
    base_init: str = "fan_in"
    nested: bool = False
    degree_major: bool = False


# name -> (fan-in of a weight, outputs per group, groups) -> its initial standard deviation.
INITIAL_STD: dict[str, Callable[[int, int, int], float]] = {
    "fan_in": lambda fan, outputs, groups: fan**-0.5,
    "fan_in_out": lambda fan, outputs, groups: (fan * outputs) ** -0.5,
    "inverse_fan_in": lambda fan, outputs, groups: 1 / (fan * groups),
    "torch_default": lambda fan, outputs, groups: (3 * fan) ** -0.5,
}


def _kanseg_basis(name: str, **names: str) -> Callable[[Site, Options], nn.Module]:
    """A basis of kanseg; `names`: its options -> their names in torch-conv-kan."""

    def build(site: Site, options: Options) -> nn.Module:
        given = {ours: options[theirs] for ours, theirs in names.items()}
        return create_basis(name, site.in_channels, domain="identity", **given)

    return build


def _gram(site: Site, options: Options) -> nn.Module:
    return ActivatedGram(
        site.in_channels,
        options["degree"],
        site.activation(),
        1 / (site.taps * site.in_channels * (options["degree"] + 1)),
    )


_KAGN = Variant(
    _gram, domain="tanh", dropout_at="argument", init="fan_in_out", nested=True, degree_major=True
)
_RELU = Variant(
    lambda site, options: FreeBumps(
        site.in_channels, site.groups, options["g"], options["k"], options["train_ab"]
    ),
    dropout_at="input",
)

CONV_VARIANTS: dict[str, Variant] = {
    "KAN": Variant(
        _kanseg_basis(
            "bspline", grid_size="grid_size", spline_order="spline_order", grid_range="grid_range"
        ),
        activation="prelu",
    ),
    "FastKAN": Variant(
        _kanseg_basis("rbf", grid_size="grid_size", grid_range="grid_range"),
        norm="before",
        activation=None,
        dropout_at="branch",
    ),
    "KALN": Variant(
        _kanseg_basis("legendre", degree="degree"),
        domain="batch_range",
        base_activation=False,
        dropout_at="argument",
        init="fan_in_out",
        nested=True,
        degree_major=True,
    ),
    "KACN": Variant(
        _kanseg_basis("chebyshev", degree="degree"),
        domain="tanh",
        base=False,
        activation=None,
        init="inverse_fan_in",
        nested=True,
    ),
    "KAGN": _KAGN,
    "KAJN": Variant(
        _kanseg_basis("jacobi", degree="degree", alpha="a", beta="b"),
        domain="tanh",
        base_activation=False,
        dropout_at="values",
        init="inverse_fan_in",
        nested=True,
        degree_major=True,
    ),
    "KABN": Variant(
        _kanseg_basis("bernstein", degree="degree"),
        domain="sigmoid",
        base_activation=False,
        dropout_at="argument",
        init="fan_in_out",
    ),
    "ReLUKAN": _RELU,
    "WavKAN": Variant(
        lambda site, options: PairedWavelets(
            site.in_channels, site.out_channels, site.groups, options["wavelet_type"]
        ),
        activation=None,
        dropout_at="branch",
        pairwise=True,
        base_init="torch_default",
    ),
    "BottleNeckKAGN": replace(_KAGN, bottleneck=True, dropout_at="input", dropout=NoiseInjection),
    "BottleNeckReLUKAN": replace(_RELU, bottleneck=True),
}

# In all flat layers the base branch reads the activated input, and weights are channel-major.
FLAT_VARIANTS: dict[str, Variant] = {
    "KAN": CONV_VARIANTS["KAN"],
    "FastKAN": replace(CONV_VARIANTS["FastKAN"], biased=("base_conv",), base_init="torch_default"),
    "KALN": replace(CONV_VARIANTS["KALN"], base_activation=True, init="fan_in"),
    "KACN": replace(CONV_VARIANTS["KACN"], norm=None),
    "KAGN": replace(_KAGN, init="fan_in"),
    "KAJN": replace(CONV_VARIANTS["KAJN"], base_activation=True),
    "KABN": replace(CONV_VARIANTS["KABN"], base_activation=True, init="inverse_fan_in"),
    "ReLUKAN": replace(
        _RELU, base=False, norm=None, activation=None, biased=("basis_conv",), init="torch_default"
    ),
    "WavKAN": replace(CONV_VARIANTS["WavKAN"], init="torch_default"),
    "BottleNeckKAGN": replace(_KAGN, bottleneck=True, biased=("squeeze", "expand"), init="fan_in"),
}


def bottleneck_width(
    in_channels: int, out_channels: int, dim_reduction: float, min_internal: int
) -> int:
    """Number of channels inside a bottleneck: the wider side divided by dim_reduction, but at least
    min_internal if both sides have as many.
    """
    width = int(max(in_channels, out_channels) / dim_reduction)
    if width >= min_internal:
        return width
    return min(min_internal, in_channels, out_channels)


def uniform_bound(std: float) -> float:
    """The bound b of the uniform distribution on [-b, b] with this standard deviation."""
    return sqrt(3) * std
