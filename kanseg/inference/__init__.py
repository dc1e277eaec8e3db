"""Predict masks: of arrays (`Predictor`, `Ensemble`) and of files (`predict_files`)."""

from kanseg.inference.ensemble import Ensemble, open_predictor
from kanseg.inference.files.inputs import find_images, find_jobs, read_list
from kanseg.inference.files.outputs import Outputs
from kanseg.inference.files.predict import predict_files
from kanseg.inference.predictor import Predictor

__all__ = [
    "Ensemble",
    "Outputs",
    "Predictor",
    "find_images",
    "find_jobs",
    "open_predictor",
    "predict_files",
    "read_list",
]
