"""Predict masks and classes: of arrays (`Predictor`, `Ensemble`, `Classifier`) and of files
(`predict_files`, `classify_files`).
"""

from kanseg.inference.classifier import Classification, Classifier
from kanseg.inference.ensemble import Ensemble, open_predictor
from kanseg.inference.files.classes import classify_files
from kanseg.inference.files.inputs import find_images, find_jobs, read_list
from kanseg.inference.files.outputs import Outputs
from kanseg.inference.files.predict import predict_files
from kanseg.inference.predictor import Predictor

__all__ = [
    "Classification",
    "Classifier",
    "Ensemble",
    "Outputs",
    "Predictor",
    "classify_files",
    "find_images",
    "find_jobs",
    "open_predictor",
    "predict_files",
    "read_list",
]
