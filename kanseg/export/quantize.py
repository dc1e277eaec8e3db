"""Quantize the convolutions and matrix products of an ONNX file to 8 bits with onnxruntime. The
functions of the KAN layers stay in float32.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.export.files import onnx_package
from kanseg.inference.onnx_file import METADATA, onnxruntime
from kanseg.utils.errors import InputError
from kanseg.utils.text import one_line

QUANTIZED = ["Conv", "MatMul", "Gemm"]


def quantize(
    kind: str,
    source: Path,
    target: Path,
    description: Mapping[str, Any],
    images: Sequence[np.ndarray] = (),
) -> None:
    """Quantize the ONNX file `source` and write it to `target`.

    Args:
        kind: "dynamic" (the range of the activations is measured in every run) or "static" (it is
            calibrated once, on `images`).
        source: a file of `write_onnx`.
        target: file to write.
        description: metadata of the new file.
        images: (H, W, C) float32 in [0, 1], for "static".

    Raises:
        InputError: onnx or onnxruntime is missing, static quantization without images, or a graph
            that cannot be quantized.
    """
    onnx, runtime = onnx_package(), onnxruntime()
    if kind == "static" and not images:
        raise InputError(
            "static quantization needs images to calibrate the range of the activations:"
            " --calibration FOLDER"
        )
    prepared = target.with_name(f"{target.stem}.prepared.onnx")
    try:
        with _quiet():
            _prepare(runtime, source, prepared)
            KINDS[kind](prepared, target, images, description["batch"] or 1)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"onnxruntime cannot quantize this network: {one_line(error)}") from None
    finally:
        prepared.unlink(missing_ok=True)
    model = onnx.load(target)
    onnx.helper.set_model_props(model, {METADATA: json.dumps({**description, "quantized": kind})})
    onnx.save(model, target)


def _prepare(runtime: Any, source: Path, target: Path) -> None:
    """Fuse normalization into the convolutions, which must be done before they are quantized."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    # Without constant folding: the convolution of a constant function would become a feature map,
    # many times as large as the weights.
    runtime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )


def _dynamic(source: Path, target: Path, images: Sequence[np.ndarray], batch: int) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target, op_types_to_quantize=QUANTIZED, per_channel=True)


def _static(source: Path, target: Path, images: Sequence[np.ndarray], batch: int) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, batches: Iterator[dict[str, np.ndarray]]):
            self.batches = batches

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    batches = ({"images": np.stack([image.transpose(2, 0, 1)] * batch)} for image in images)
    quantize_static(
        source, target, Reader(batches), op_types_to_quantize=QUANTIZED, per_channel=True
    )


KINDS: dict[str, Callable[[Path, Path, Sequence[np.ndarray], int], None]] = {
    "dynamic": _dynamic,
    "static": _static,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime.quantization, which warns about missing preparation (see `_prepare`)."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
