"""Segmentation networks of Kolmogorov-Arnold convolutions, and the pipeline around them."""

from kanseg.errors import InputError
from kanseg.models import create_classifier, create_encoder, create_model, kan, list_bases, list_encoders, list_models
from kanseg.pretrained import from_pretrained

__version__ = "0.1.0"
__all__ = ["InputError", "create_classifier", "create_encoder", "create_model", "from_pretrained", "kan", "list_bases", "list_encoders", "list_models", "load"]


def load(checkpoint: str, *, device: str | None = None):
    """A trained network with its class names and preprocessing, ready for arrays.

    Args:
        checkpoint: folder such as "runs/x/best" (or the run folder itself), or one written by `predictor.model.save_pretrained`.
        device: torch device; by default a GPU where there is one.

    Returns:
        A `kanseg.inference.Predictor`: `predictor(image)` maps (H, W, C) uint8 or uint16 to (H, W) class indices.

    Raises:
        InputError: no complete checkpoint there.
    """
    from kanseg.inference import Predictor

    return Predictor.from_checkpoint(checkpoint, device=device)
