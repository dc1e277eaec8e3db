"""Losses on logits, computed in float32 whatever the precision of the network. Ignored pixels do
not count.
"""

from kanseg.losses import (  # noqa: F401 - register in LOSSES
    boundary,
    centerline,
    lovasz,
    overlap,
    pixelwise,
)
from kanseg.losses.classification import ClassificationLoss
from kanseg.losses.inputs import LOSSES, LossInputs
from kanseg.losses.weighted import WeightedLoss, check_options, check_supervision, check_weights
from kanseg.losses.weights import balanced_weights, check_class_weights, frequency_weights

__all__ = [
    "LOSSES",
    "ClassificationLoss",
    "LossInputs",
    "WeightedLoss",
    "balanced_weights",
    "check_class_weights",
    "check_options",
    "check_supervision",
    "check_weights",
    "frequency_weights",
]
