"""Networks: encoder + decoder + heads, by name."""

from kanseg.models import ukanet, unet
from kanseg.models.factory import create_encoder, create_model, list_bases, list_encoders, list_models
from kanseg.models.flat import KAN, kan
from kanseg.models.segmentation import MODELS, ClassificationHead, SegmentationModel, UNetDecoder

__all__ = [
    "KAN",
    "MODELS",
    "ClassificationHead",
    "SegmentationModel",
    "UNetDecoder",
    "create_encoder",
    "create_model",
    "kan",
    "list_bases",
    "list_encoders",
    "list_models",
    "ukanet",
    "unet",
]
