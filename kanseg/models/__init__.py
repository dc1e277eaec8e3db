"""Networks: encoder + decoder + heads, by name."""

from kanseg.models import densekanet, reskanet, simple, u2kanet, ukan, ukanet, unet, vggkan
from kanseg.models.classification import ClassificationModel
from kanseg.models.factory import create_classifier, create_encoder, create_model, list_bases, list_encoders, list_models
from kanseg.models.flat import KAN, kan
from kanseg.models.segmentation import MODELS, ClassificationHead, SegmentationModel, UNetDecoder

__all__ = [
    "KAN",
    "MODELS",
    "ClassificationHead",
    "ClassificationModel",
    "SegmentationModel",
    "UNetDecoder",
    "create_classifier",
    "create_encoder",
    "create_model",
    "densekanet",
    "kan",
    "list_bases",
    "list_encoders",
    "list_models",
    "reskanet",
    "simple",
    "u2kanet",
    "ukan",
    "ukanet",
    "unet",
    "vggkan",
]
