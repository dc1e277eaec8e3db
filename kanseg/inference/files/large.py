"""An image that is too large for the memory -> tiled TIFF files, written as its rows are
finished.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from kanseg.data.io.images import write_png
from kanseg.inference.files.geotiff import geotiff_tags
from kanseg.inference.files.outputs import (
    OVERLAYS,
    UNCERTAINTY,
    Writer,
    to_bytes,
    uncertainty_image,
)
from kanseg.inference.files.polygons import Region
from kanseg.inference.files.tiff import RowFile
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.inference.sources import WindowedImage

LARGE = (
    2**26
    # pixels beyond which a mask is written as tiled TIFF: readers of PNG have to decode all of
    # it to
    # show a corner
)
PREVIEW = 2048  # longest side of the overlay of a large image
ROWS = 512


def predict_large(
    predictor: Segmenter, image: WindowedImage, name: str, writer: Writer, path: Path
) -> list[Region]:
    """Write the masks `NAME.tif` (palette; of a multilabel task a file for each class), and what
    else is wanted, of one image.

    Probabilities become a TIFF for each class (float16 for "npz", uint8 for "png"), the uncertainty
    one of uint8, the overlay a small image. Only outlines need the whole label map in memory,
    about 10 bytes a pixel.
    """
    with ExitStack() as stack:
        files = {
            key: [stack.enter_context(closing(file)) for file in group]
            for key, group in _row_files(writer, name, image.shape[1]).items()
        }
        for _, strip in predictor.strips([image], uncertainty=writer.outputs.uncertainty):
            _append(files, _planes(strip, writer))
        if writer.outputs.overlays:
            write_png(
                writer.root / OVERLAYS / f"{name}.png", _preview(image, files["mask"], writer)
            )
        found = (
            writer.outlines(name, _label(files["mask"], writer), path)
            if writer.outputs.polygons is not None
            else []
        )
        tags = geotiff_tags(path)
        for key in ("probabilities", "uncertainty", "mask"):
            for file in files.get(key, []):
                file.write(
                    writer.colors if key == "mask" and writer.task != "multilabel" else None, tags
                )
    return found


def _row_files(writer: Writer, name: str, width: int) -> dict[str, list[RowFile]]:
    """Files for the rows of everything that is wanted."""
    files = {"mask": [RowFile(target, width, "uint8") for target in writer.masks(name, ".tif")]}
    if writer.outputs.probabilities is not None:
        dtype = "float16" if writer.outputs.probabilities == "npz" else "uint8"
        files["probabilities"] = [
            RowFile(target, width, dtype) for target in writer.probability_maps(name, ".tif")
        ]
    if writer.outputs.uncertainty:
        files["uncertainty"] = [RowFile(writer.root / UNCERTAINTY / f"{name}.tif", width, "uint8")]
    return files


def _append(files: dict[str, list[RowFile]], planes: dict[str, np.ndarray]) -> None:
    """The next rows of every file."""
    for key, values in planes.items():
        for file, rows in zip(files[key], values, strict=True):
            file.append(rows)


def _planes(strip: Prediction, writer: Writer) -> dict[str, np.ndarray]:
    """Rows (files, rows, W) for each kind of file."""
    label = strip.label[0].numpy()
    planes = {"mask": label * 255 if writer.task == "multilabel" else label[None]}
    if writer.outputs.probabilities is not None:
        values = strip.probabilities[0].numpy()
        planes["probabilities"] = (
            values if writer.outputs.probabilities == "npz" else to_bytes(values)
        )
    if writer.outputs.uncertainty:
        planes["uncertainty"] = uncertainty_image(strip.uncertainty.numpy(), writer.looks)
    return planes


def _label(
    masks: list[RowFile], writer: Writer, top: int = 0, count: int | None = None
) -> np.ndarray:
    """Some rows of the label map, or all."""
    rows = [file.read(top, file.height if count is None else count) for file in masks]
    return np.stack(rows) // 255 if writer.task == "multilabel" else rows[0]


def _preview(image: WindowedImage, masks: list[RowFile], writer: Writer) -> np.ndarray:
    """The overlay of every n-th pixel."""
    height, width = image.shape
    step = -(-max(height, width) // PREVIEW)
    rows = -(-ROWS // step) * step
    images, labels = [], []
    for top in range(0, height, rows):
        count = min(rows, height - top)
        # Copies: a view would keep all the pixels that it leaves out.
        images.append(image.read(top, 0, count, width)[::step, ::step].copy())
        labels.append(_label(masks, writer, top, count)[..., ::step, ::step].copy())
    return writer.overlay(np.concatenate(images), np.concatenate(labels, axis=-2))
