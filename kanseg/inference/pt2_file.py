"""Read a .pt2 file of torch.export: a graph for PyTorch, with its description as an extra file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kanseg.inference.onnx_file import METADATA
from kanseg.utils.errors import InputError
from kanseg.utils.text import one_line

TRUST = "KANSEG_TRUST_PT2"


def read_pt2(path: Path, *, trust: bool = False) -> tuple[Callable[[Tensor], Tensor], str | None]:
    """Read a .pt2 file.

    Args:
        path: of the file.
        trust: load it although it can run code: pickled payloads, size expressions and guards are
            evaluated as Python. The environment variable KANSEG_TRUST_PT2=1 does the same.

    Returns:
        (function from images to outputs, on the CPU; description as JSON, None if there is none).

    Raises:
        InputError: a file that is not trusted, damaged, or of another version of torch.
    """
    if not trust and os.environ.get(TRUST) != "1":
        raise InputError(
            f"{path}: torch.export.load can run code that is in the file; if you trust it, set"
            f" {TRUST}=1 (or trust=True), else use an ONNX file"
        )
    description = _read_description(path)
    try:  # torch raises many kinds of errors for damaged files and other versions
        graph = torch.export.load(path).module()
    except Exception as error:
        raise InputError(
            f"{path}: this torch ({torch.__version__}) cannot load it: {one_line(error)}"
        ) from None

    def run(images: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                return graph(images)
        except AssertionError as error:  # a guard of the graph refuses the shape
            raise InputError(
                f"{path} does not take images {tuple(images.shape)}: {one_line(error)}"
            ) from None

    return run, description


def _read_description(path: Path) -> str | None:
    """Read the description from the zip archive, without torch."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"/extra/{METADATA}.json"):
                    return archive.read(name).decode("utf-8")
    except Exception:  # zipfile raises many kinds of errors for damaged files
        raise InputError(f"{path}: damaged, or not a .pt2 file") from None
    return None
