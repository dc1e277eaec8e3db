"""Kolmogorov-Arnold layers: KANConv1d/2d/3d (with bottleneck and sharing), KANLinear, KANLocal2d,
KANActivation, the family names of the literature, grid updates and regularizers.

Also attention, focal modulation, mixtures of experts and fine-tuning built from these layers.
"""

from kanseg.layers.activation import KANActivation
from kanseg.layers.attention import ConvAttention
from kanseg.layers.blocks import BasicBlock, BottleneckBlock, conv_stack, kan_conv, stage
from kanseg.layers.experts import ConvExperts, balance_loss
from kanseg.layers.families import *  # noqa: F403 - its __all__
from kanseg.layers.families import FAMILIES
from kanseg.layers.finetune import finetune, fuse
from kanseg.layers.focal import FocalModulation
from kanseg.layers.formulas import FormulaActivation, replace_by_formulas
from kanseg.layers.grids import off_grid_shares, refine_functions, refine_grids, update_grids
from kanseg.layers.kan_conv import KANConv1d, KANConv2d, KANConv3d
from kanseg.layers.linear import KANLinear
from kanseg.layers.local import KANLocal2d
from kanseg.layers.regularization import PENALTIES, NoiseInjection, Penalty

__all__ = [
    "FAMILIES",
    "PENALTIES",
    "BasicBlock",
    "BottleneckBlock",
    "ConvAttention",
    "ConvExperts",
    "FocalModulation",
    "FormulaActivation",
    "KANActivation",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANLinear",
    "KANLocal2d",
    "NoiseInjection",
    "Penalty",
    "balance_loss",
    "conv_stack",
    "finetune",
    "fuse",
    "kan_conv",
    "off_grid_shares",
    "refine_functions",
    "refine_grids",
    "replace_by_formulas",
    "stage",
    "update_grids",
    *FAMILIES,
]
