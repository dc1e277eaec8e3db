"""Time and memory of layers and networks, beside the limit of what is possible and beside torch-conv-kan."""

from kanseg.benchmark.layers import LayerCase, layer_rows, layer_table
from kanseg.benchmark.measure import Setting
from kanseg.benchmark.models import ModelCase, model_rows, model_table
from kanseg.benchmark.original import Original
from kanseg.benchmark.predict import PredictCase, predict_rows, predict_table
from kanseg.benchmark.report import machine_line
from kanseg.benchmark.zoo import zoo_rows, zoo_table
from kanseg.counting import saved_bytes

__all__ = [
    "LayerCase",
    "ModelCase",
    "Original",
    "PredictCase",
    "Setting",
    "layer_rows",
    "layer_table",
    "machine_line",
    "model_rows",
    "model_table",
    "predict_rows",
    "predict_table",
    "saved_bytes",
    "zoo_rows",
    "zoo_table",
]
