"""What one family of torch-conv-kan does differently from the next, as data: one row a family, for
its convolutions and for its flat layer.
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
    """Position of the functions: channels that go in and come out, groups, taps of the kernel, and
    the activation of the layer.
    """

    in_channels: int
    out_channels: int
    groups: int
    taps: int
    activation: Callable[[], nn.Module]


@dataclass(frozen=True)
class Variant:
    """A row of the tables below.

    Attributes:
        basis: (site, options) -> module (B, C, *S) -> (B, C, K, *S); (B, O, C / groups, *S) where
            `pairwise`.
        domain: name of the map in front of the basis.
        base: whether there is a base branch; `base_activation`: whether it sees the activated input
            or the raw one.
        norm: "after" the sum of the branches, "before" the domain map, or None.
        activation: after the norm: "prelu" (one slope a group), "act" (the activation of the layer)
            or None.
        dropout_at: input (of both branches), branch (input of the functions' branch), argument (of
            the functions), values (of the functions) or output.
        dropout: makes the dropout from its probability; None for torch.nn.Dropout1d/2d/3d.
        bottleneck: 1x1 maps around the basis.
        pairwise: functions are per (output, input) pair, summed by a depthwise convolution and
            mixed by a 1x1 one.
        biased: names of the parts that have a bias.
        init, base_init: names of INITIAL_STD, for the functions' map and for the base branch's.
        nested: the functions of a lower degree are the first ones of a higher degree.
        degree_major: `poly_weights` are stored degree by degree (j * C + c), not channel by channel
            (c * K + j).
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
    init: str = "fan"
    base_init: str = "fan"
    nested: bool = False
    degree_major: bool = False


# Standard deviation of a fresh basis weight from its fan-in, outputs per group and groups, by
# family as there.
INITIAL_STD: dict[str, Callable[[int, int, int], float]] = {
    "fan": lambda fan, outputs, groups: fan**-0.5,
    "folded": lambda fan, outputs, groups: (fan * outputs) ** -0.5,
    "inverse": lambda fan, outputs, groups: 1 / (fan * groups),
    "third": lambda fan, outputs, groups: (3 * fan) ** -0.5,
}


def _bspline(site: Site, options: Options) -> nn.Module:
    grid = {
        "grid_size": options["grid_size"],
        "spline_order": options["spline_order"],
        "grid_range": tuple(options["grid_range"]),
    }
    return create_basis("bspline", site.in_channels, domain="identity", **grid)


def _rbf(site: Site, options: Options) -> nn.Module:
    return create_basis(
        "rbf",
        site.in_channels,
        domain="identity",
        grid_size=options["grid_size"],
        grid_range=tuple(options["grid_range"]),
    )


def _polynomials(name: str) -> Callable[[Site, Options], nn.Module]:
    return lambda site, options: create_basis(
        name, site.in_channels, domain="identity", degree=options["degree"]
    )


def _jacobi(site: Site, options: Options) -> nn.Module:
    return create_basis(
        "jacobi",
        site.in_channels,
        domain="identity",
        degree=options["degree"],
        alpha=options["a"],
        beta=options["b"],
    )


def _gram(site: Site, options: Options) -> nn.Module:
    return ActivatedGram(
        site.in_channels,
        options["degree"],
        site.activation(),
        1 / (site.taps * site.in_channels * (options["degree"] + 1)),
    )


def _bumps(site: Site, options: Options) -> nn.Module:
    return FreeBumps(site.in_channels, site.groups, options["g"], options["k"], options["train_ab"])


def _wavelets(site: Site, options: Options) -> nn.Module:
    return PairedWavelets(site.in_channels, site.out_channels, site.groups, options["wavelet_type"])


_KAGN = Variant(
    _gram, domain="tanh", dropout_at="argument", init="folded", nested=True, degree_major=True
)
_RELU = Variant(_bumps, dropout_at="input")

CONV_VARIANTS: dict[str, Variant] = {
    "KAN": Variant(_bspline, activation="prelu"),
    "FastKAN": Variant(_rbf, norm="before", activation=None, dropout_at="branch"),
    "KALN": Variant(
        _polynomials("legendre"),
        domain="batch_range",
        base_activation=False,
        dropout_at="argument",
        init="folded",
        nested=True,
        degree_major=True,
    ),
    "KACN": Variant(
        _polynomials("chebyshev"),
        domain="tanh",
        base=False,
        activation=None,
        init="inverse",
        nested=True,
    ),
    "KAGN": _KAGN,
    "KAJN": Variant(
        _jacobi,
        domain="tanh",
        base_activation=False,
        dropout_at="values",
        init="inverse",
        nested=True,
        degree_major=True,
    ),
    "KABN": Variant(
        _polynomials("bernstein"),
        domain="sigmoid",
        base_activation=False,
        dropout_at="argument",
        init="folded",
    ),
    "ReLUKAN": _RELU,
    "WavKAN": Variant(
        _wavelets, activation=None, dropout_at="branch", pairwise=True, base_init="third"
    ),
    "BottleNeckKAGN": replace(_KAGN, bottleneck=True, dropout_at="input", dropout=NoiseInjection),
    "BottleNeckReLUKAN": replace(_RELU, bottleneck=True),
}

# The flat layers: the base branch sees the activated input in all of them, weights are
# channel-major, and biases come and go.
FLAT_VARIANTS: dict[str, Variant] = {
    "KAN": CONV_VARIANTS["KAN"],
    "FastKAN": replace(CONV_VARIANTS["FastKAN"], biased=("base_conv",), base_init="third"),
    "KALN": replace(CONV_VARIANTS["KALN"], base_activation=True, init="fan"),
    "KACN": replace(CONV_VARIANTS["KACN"], norm=None),
    "KAGN": replace(_KAGN, init="fan"),
    "KAJN": replace(CONV_VARIANTS["KAJN"], base_activation=True),
    "KABN": replace(CONV_VARIANTS["KABN"], base_activation=True, init="inverse"),
    "ReLUKAN": replace(
        _RELU, base=False, norm=None, activation=None, biased=("basis_conv",), init="third"
    ),
    "WavKAN": replace(CONV_VARIANTS["WavKAN"], init="third"),
    "BottleNeckKAGN": replace(_KAGN, bottleneck=True, biased=("squeeze", "expand"), init="fan"),
}


def bottleneck_width(
    in_channels: int, out_channels: int, dim_reduction: float, min_internal: int
) -> int:
    """Channels inside a bottleneck: the wider side divided by dim_reduction, but at least
    min_internal where both sides have as many.
    """
    width = int(max(in_channels, out_channels) / dim_reduction)
    return width if width >= min_internal else min(min_internal, in_channels, out_channels)


def uniform_bound(std: float) -> float:
    """b such that the uniform distribution on [-b, b] has this standard deviation."""
    return sqrt(3) * std
