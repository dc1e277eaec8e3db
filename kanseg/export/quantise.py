"""ONNX files -> ONNX files of 8-bit convolutions and matrix products, by onnxruntime; the functions of the KAN layers stay in float32."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.errors import InputError
from kanseg.export.files import onnx_package
from kanseg.inference.exported import METADATA, onnxruntime

QUANTISED = ["Conv", "MatMul", "Gemm"]


def quantise(kind: str, source: Path, target: Path, description: Mapping[str, Any], pictures: Sequence[np.ndarray] = ()) -> None:
    """Write `target`, the quantised `source`.

    Args:
        kind: "dynamic" (8-bit weights; the range of activations is measured in each run) or "static" (the range is that of the pictures).
        source: a file of `write_onnx`.
        target: file to write.
        description: for the new file.
        pictures: (H, W, C) float32 in [0, 1], for "static".

    Raises:
        InputError: no onnx or onnxruntime, no pictures where they are needed, or a graph that cannot be quantised.
    """
    onnx, _ = onnx_package(), onnxruntime()
    if kind == "static" and not pictures:
        raise InputError("static quantisation needs pictures that show the range of the activations: --calibration FOLDER")
    from onnxruntime.quantization import quant_pre_process

    prepared = target.with_name(f"{target.stem}.prepared.onnx")
    try:
        with _quiet():
            quant_pre_process(source, prepared, skip_symbolic_shape=True)  # normalisation into the convolutions; sizes stay unknown
            KINDS[kind](prepared, target, pictures, description["batch"] or 1)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"onnxruntime cannot quantise this network: {' '.join(str(error).split())[:300]}") from None
    finally:
        prepared.unlink(missing_ok=True)
    model = onnx.load(target)
    onnx.helper.set_model_props(model, {METADATA: json.dumps({**description, "quantised": kind})})
    onnx.save(model, target)


def _dynamic(source: Path, target: Path, pictures: Sequence[np.ndarray], batch: int) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target, op_types_to_quantize=QUANTISED, per_channel=True)


def _static(source: Path, target: Path, pictures: Sequence[np.ndarray], batch: int) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, batches: Iterator[dict[str, np.ndarray]]):
            self.batches = batches

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    batches = ({"pictures": np.stack([picture.transpose(2, 0, 1)] * batch)} for picture in pictures)
    quantize_static(source, target, Reader(batches), op_types_to_quantize=QUANTISED, per_channel=True)


KINDS: dict[str, Callable[[Path, Path, Sequence[np.ndarray], int], None]] = {"dynamic": _dynamic, "static": _static}


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime.quantization warns through the root logger that what is done here should be done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
