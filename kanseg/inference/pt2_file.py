"""Read a .pt2 file of torch.export: its graph runs in PyTorch, its description is an extra file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kanseg.inference.onnx_file import METADATA
from kanseg.utils.errors import InputError

TRUST = "KANSEG_TRUST_PT2"


def read_pt2(path: Path, *, trust: bool = False) -> tuple[Callable[[Tensor], Tensor], str | None]:
    """Read a .pt2 file.

    Args:
        path: of the file.
        trust: load it although it can run code: pickled payloads, expressions of sizes and guards
            are all evaluated as Python. The environment variable KANSEG_TRUST_PT2=1 says the same.

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
    try:  # whatever torch raises for a file of another version, or a damaged one
        graph = torch.export.load(path).module()
    except Exception as error:
        raise InputError(
            f"{path}: this torch ({torch.__version__}) cannot load it: {_one_line(error)}"
        ) from None

    def run(images: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                return graph(images)
        except AssertionError as error:  # a guard: sizes for which the graph was not made
            raise InputError(
                f"{path} takes no images {tuple(images.shape)}: {_one_line(error)}"
            ) from None

    return run, description


def _read_description(path: Path) -> str | None:
    """Read the description from the zip archive, without torch."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"/extra/{METADATA}.json"):
                    return archive.read(name).decode("utf-8")
    except Exception:  # a zip file can be damaged in more ways than zipfile has names for
        raise InputError(f"{path}: damaged, or not a .pt2 file") from None
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
