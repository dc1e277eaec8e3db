"""Kolmogorov-Arnold layers: KANConv1d/2d/3d (with bottleneck), KANLinear, and the family names of the literature."""

from kanseg.layers.blocks import BasicBlock, BottleneckBlock, conv_stack, kan_conv, stage
from kanseg.layers.families import *  # noqa: F403 - its __all__
from kanseg.layers.families import FAMILIES
from kanseg.layers.kan_conv import KANConv1d, KANConv2d, KANConv3d
from kanseg.layers.linear import KANLinear

__all__ = [
    "FAMILIES",
    "BasicBlock",
    "BottleneckBlock",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANLinear",
    "conv_stack",
    "kan_conv",
    "stage",
    *FAMILIES,
]
