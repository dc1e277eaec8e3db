"""Networks: encoder + decoder + heads, by name."""

from kanseg.encoders import densekanet, reskanet, simple, vggkan
from kanseg.models import flat_classifiers, u2kanet, ukan, ukanet, unet, vae
from kanseg.models.classification import CLASSIFIERS, ClassificationModel, FlatClassifier
from kanseg.models.factory import (
    create_classifier,
    create_encoder,
    create_model,
    list_bases,
    list_encoders,
    list_models,
)
from kanseg.models.flat import KAN, kan
from kanseg.models.segmentation import MODELS, ClassificationHead, SegmentationModel, UNetDecoder
from kanseg.models.vae import VAE, vae_loss

__all__ = [
    "CLASSIFIERS",
    "KAN",
    "MODELS",
    "VAE",
    "ClassificationHead",
    "ClassificationModel",
    "FlatClassifier",
    "SegmentationModel",
    "UNetDecoder",
    "create_classifier",
    "create_encoder",
    "create_model",
    "densekanet",
    "flat_classifiers",
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
    "vae",
    "vae_loss",
    "vggkan",
]
