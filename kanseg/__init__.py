"""Segmentation networks of Kolmogorov-Arnold convolutions, and the pipeline around them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanseg.models import (
        create_classifier,
        create_encoder,
        create_model,
        kan,
        list_bases,
        list_encoders,
        list_models,
    )
    from kanseg.models.profile import profile
    from kanseg.utils.errors import InputError
    from kanseg.utils.hub import from_pretrained

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "create_classifier",
    "create_encoder",
    "create_model",
    "from_pretrained",
    "kan",
    "list_bases",
    "list_encoders",
    "list_models",
    "load",
    "profile",
]


def load(checkpoint: str | Sequence[str], **options: Any):
    """A trained network with its class names and preprocessing, ready for arrays; of several
    checkpoints, their ensemble. Classifiers load the same way.

    Args:
        checkpoint: folder such as "runs/x/best" (or the run folder itself), one written by
            `predictor.model.save_pretrained`, or an exported file (.onnx, .pt2); a list of them for
            the mean of their probabilities.
        options: `mode` ("auto", "whole", "tiles"), `tile` ((h, w)), `overlap`, `flips` (1, 2, 4, 8:
            mirrored and turned views that are averaged), `scales`, `batch_size`, `precision` ("no",
            "bf16", "fp16"), `device` (by default a GPU where there is one). A classifier has
            `flips`, `batch_size`, `precision` and `device`.

    Returns:
        A `kanseg.inference.Predictor` (or `Ensemble`): `predictor(image)` maps (H, W, C) to (H, W)
        class indices, `predictor.probabilities(image)` to (N, H, W), `predictor.uncertainty(image)`
        to (H, W). Of a classifier a `kanseg.inference.Classifier`: `classifier(image).name` is the
        class of a file or an array, `classifier.probabilities(image)` is (N,); both take a list of
        images too.

        Arrays hold values as image files do, not normalized: uint8 from 0 to 255, or uint16 from 0
        to 65535. Networks that were trained on float images take float32 instead, in the units of
        those images.

    Raises:
        InputError: no complete checkpoint there, or options out of range.
    """
    from kanseg.inference import open_predictor

    return open_predictor(checkpoint, **options)


# Imported at the first use, so that `--help` of a tool does not wait for torch.
_HOMES = {
    "InputError": "kanseg.utils.errors",
    "create_classifier": "kanseg.models",
    "create_encoder": "kanseg.models",
    "create_model": "kanseg.models",
    "from_pretrained": "kanseg.utils.hub",
    "kan": "kanseg.models",
    "list_bases": "kanseg.models",
    "list_encoders": "kanseg.models",
    "list_models": "kanseg.models",
    "profile": "kanseg.models.profile",
}
_PARTS = ("bases", "encoders", "layers", "models", "utils")


def __getattr__(name: str) -> Any:
    if name == "from_pretrained":
        import_module("kanseg.models")  # registers the functions that build stored networks
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _PARTS:
        return import_module(f"kanseg.{name}")
    raise AttributeError(f"module 'kanseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PARTS})
