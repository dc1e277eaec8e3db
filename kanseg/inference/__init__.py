"""Any image -> a mask of its own size: from arrays (Predictor, Ensemble) or files."""

from kanseg.inference.ensemble import Ensemble, open_predictor
from kanseg.inference.files.inputs import find_images, find_jobs
from kanseg.inference.files.outputs import Outputs
from kanseg.inference.files.predict import predict_files
from kanseg.inference.predictor import Predictor

__all__ = [
    "Ensemble",
    "Outputs",
    "Predictor",
    "find_jobs",
    "find_images",
    "open_predictor",
    "predict_files",
]
