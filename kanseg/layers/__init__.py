"""Kolmogorov-Arnold layers: KANConv1d/2d/3d (with bottleneck and sharing), KANLinear, the family names of the literature, grids, regularisers."""

from kanseg.layers.blocks import BasicBlock, BottleneckBlock, conv_stack, kan_conv, stage
from kanseg.layers.families import *  # noqa: F403 - its __all__
from kanseg.layers.families import FAMILIES
from kanseg.layers.grids import off_grid_shares, refine_grids, update_grids
from kanseg.layers.kan_conv import KANConv1d, KANConv2d, KANConv3d
from kanseg.layers.linear import KANLinear
from kanseg.layers.regularisation import PENALTIES, NoiseInjection, Penalty

__all__ = [
    "FAMILIES",
    "PENALTIES",
    "BasicBlock",
    "BottleneckBlock",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANLinear",
    "NoiseInjection",
    "Penalty",
    "conv_stack",
    "kan_conv",
    "off_grid_shares",
    "refine_grids",
    "stage",
    "update_grids",
    *FAMILIES,
]
