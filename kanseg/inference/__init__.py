"""Any picture -> a mask of its own size: from arrays (Predictor) or files."""

from kanseg.inference.files import find_pictures, predict_files
from kanseg.inference.predictor import Predictor

__all__ = ["Predictor", "find_pictures", "predict_files"]
