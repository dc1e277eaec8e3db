"""Write a page that runs an exported network in a browser, without a server."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kanseg
from kanseg.data.label_spec import foreground_classes
from kanseg.export.web_runtime import WebRuntime
from kanseg.inference.description import MIN_TILE
from kanseg.utils.errors import InputError
from kanseg.utils.html import render_page
from kanseg.utils.io import atomic_write_text

TEMPLATE = Path(__file__).parent / "templates" / "demo.html"
MAX_MODEL = 2**28  # bytes of an ONNX file; a string in a browser holds less than 2**29
# Of an image, so that canvases (of iOS) and the memory of a browser suffice.
MAX_PIXELS = 2**24
MAX_VALUES = 2**26  # pixels times classes


def check_demo(description: Mapping[str, Any], where: object) -> None:
    """Check that a browser can give the network its images.

    Args:
        description: of the checkpoint.
        where: for messages.

    Raises:
        InputError: a classifier, images of other channels than gray or RGB, images of floats.
    """
    step = description["preprocess"]
    if description["labels"]["task"] == "classification":
        raise InputError(f"{where} is a classifier; the page of --demo shows masks")
    if step["channels"] not in (1, 3):
        raise InputError(
            f"{where} takes images of {step['channels']} channels; the page of --demo reads images"
            " in a browser, which gives 3 (RGB, or gray made of them)"
        )
    if step.get("floats"):
        raise InputError(
            f"{where} takes images of floats; the page of --demo reads images in a browser, which"
            " gives integers of 8 bits"
        )


def write_demo(
    folder: Path, model: bytes, description: Mapping[str, Any], runtime: WebRuntime, *, name: str
) -> int:
    """Write index.html, model.js and runtime.js: a page that predicts masks of images.

    A page that is opened from a file may not fetch other files, but it may load scripts: they hold
    the network and onnxruntime-web as Base64 of gzip.

    Args:
        folder: for the files; other files in it stay.
        model: the ONNX file.
        description: in its metadata.
        runtime: onnxruntime-web.
        name: of the network, the title of the page.

    Returns:
        The size of the files in bytes.

    Raises:
        InputError: a network that is too large for a browser.
    """
    if len(model) > MAX_MODEL:
        raise InputError(
            f"{name}: {len(model) / 2**20:.0f} MiB are too many for a browser (at most"
            f" {MAX_MODEL / 2**20:.0f}); train a smaller network, or use --quantize dynamic"
        )
    parts = {
        "script": runtime.script.decode(),
        "module": runtime.module.decode(),
        "wasm": packed(runtime.wasm),
    }
    settings = page_settings(description) | {"runtime": runtime.version}
    comment = (
        f"// onnxruntime-web {runtime.version}, (c) Microsoft Corporation, MIT License:"
        " https://github.com/microsoft/onnxruntime\n"
    )
    files = {
        "runtime.js": f"{comment}self.kansegRuntime = {json.dumps(parts)};\n",
        "model.js": f"self.kansegModel = {json.dumps(packed(model))};\n",
        "index.html": render_page(TEMPLATE, title=name, settings=settings),
    }
    for file, text in files.items():
        atomic_write_text(folder / file, text)
    return sum((folder / file).stat().st_size for file in files)


def page_settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """What the page must know of a network, as plain JSON."""
    labels = description["labels"]
    classes, task = labels["classes"], labels["task"]
    tile = None  # as kanseg predict: whole images if the network resizes them
    if description["preprocess"].get("resize") is None:
        tile = description.get("tile") or (MIN_TILE, MIN_TILE)
    return {
        "task": task,
        "classes": classes,
        "palette": labels["palette"],
        "foreground": foreground_classes(classes, task),
        "channels": description["preprocess"]["channels"],
        "tile": tile,
        "output": description["output"],
        "max_pixels": min(MAX_PIXELS, MAX_VALUES // len(classes)),
        "version": kanseg.__version__,
    }


def packed(content: bytes) -> str:
    """Base64 of the gzip file of a content."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
