"""Measure time and memory of layers and networks, and compare them with torch-conv-kan."""

from kanseg.benchmark.layers import LayerCase, layer_rows, layer_table
from kanseg.benchmark.loader import LoaderCase, loader_rows, loader_table
from kanseg.benchmark.measure import Setting
from kanseg.benchmark.models import ModelCase, model_rows, model_table
from kanseg.benchmark.original import Original
from kanseg.benchmark.predict import PredictCase, predict_rows, predict_table
from kanseg.benchmark.zoo import zoo_rows, zoo_table
from kanseg.models.operations import saved_bytes
from kanseg.utils.environment import environment_line

__all__ = [
    "LayerCase",
    "LoaderCase",
    "ModelCase",
    "Original",
    "PredictCase",
    "Setting",
    "layer_rows",
    "layer_table",
    "loader_rows",
    "loader_table",
    "environment_line",
    "model_rows",
    "model_table",
    "predict_rows",
    "predict_table",
    "saved_bytes",
    "zoo_rows",
    "zoo_table",
]
