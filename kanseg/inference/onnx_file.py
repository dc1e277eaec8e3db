"""Read an ONNX file: a graph for onnxruntime, with its description in the metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanseg.utils.errors import InputError
from kanseg.utils.installation import install
from kanseg.utils.text import one_line

METADATA = "kanseg"  # key of the description in the metadata
INSTALL = install("export")

# The fields of ONNX's messages (onnx.proto) that lead to tensors: message -> field number ->
# message.
_FIELDS = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "external_data"},
}
# Wire types of protobuf.
_INTEGER, _EIGHT_BYTES, _LENGTH_AND_BYTES, _FOUR_BYTES = 0, 1, 2, 5


def onnxruntime() -> Any:
    """Import onnxruntime.

    Raises:
        InputError: it is not installed; the message says how to install it.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"ONNX files need onnxruntime: {INSTALL}") from None
    return onnxruntime


def read_onnx(path: Path, *, threads: int = 0) -> tuple[Callable[[Tensor], Tensor], str | None]:
    """Read an ONNX file, whose weights must be inside.

    Args:
        path: of the file.
        threads: of onnxruntime; 0 for its default.

    Returns:
        (function from images to outputs, on the CPU; description as JSON, None if there is none).

    Raises:
        InputError: not an ONNX file, or weights in other files.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # onnxruntime's errors for a damaged graph have no common base class, and the lines below may
    # fail too (no input, a result that is not an array).
    try:
        data = path.read_bytes()
        if has_external_data(data):
            raise InputError("its weights are in other files, which are not read")
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        input_name = session.get_inputs()[0].name
        description = session.get_modelmeta().custom_metadata_map.get(METADATA)
    except Exception as error:
        raise InputError(
            f"{path}: not an ONNX file that onnxruntime can read: {one_line(error)}"
        ) from None

    def run(images: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {input_name: images.numpy()})[0])
        except Exception as error:
            raise InputError(
                f"{path} fails on images {tuple(images.shape)}: {one_line(error)}"
            ) from None

    return run, description


def has_external_data(data: bytes | memoryview, message: str = "Model") -> bool:
    """True if a tensor in a message of an ONNX file is stored in another file.

    onnxruntime would read that file from the working folder, even for a model in memory. The
    package onnx, which can check this, may not be installed, so the bytes are parsed here.
    """
    data, position = memoryview(data), 0
    while position < len(data):
        key, position = _read_varint(data, position)
        field, wire_type = key >> 3, key & 7
        if wire_type == _LENGTH_AND_BYTES:
            length, position = _read_varint(data, position)
            inner = _FIELDS[message].get(field)
            if inner == "external_data":
                return True
            if inner is not None and has_external_data(data[position : position + length], inner):
                return True
            position += length
        elif wire_type == _INTEGER:
            _, position = _read_varint(data, position)
        else:
            position += {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[wire_type]
    return False


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read an integer of protobuf (7 bits per byte, the lowest first): (value, next position)."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
