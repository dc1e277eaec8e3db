"""Predict an image that is larger than the memory, and write its rows to tiled TIFF files."""

from __future__ import annotations

from contextlib import ExitStack, closing

import numpy as np

from kanseg.data.io.images import write_png
from kanseg.inference.files.geotiff import geotiff_tags
from kanseg.inference.files.inputs import Job
from kanseg.inference.files.outputs import (
    NOVELTY,
    OVERLAYS,
    UNCERTAINTY,
    OutputWriter,
    novelty_image,
    to_uint8,
    uncertainty_image,
)
from kanseg.inference.files.polygons import ImageRegions
from kanseg.inference.files.tiff_writer import TiffRowWriter
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.inference.sources import WindowedImage

# Pixels beyond which a mask is a tiled TIFF file, since a PNG must be decoded as a whole.
LARGE = 2**26
PREVIEW_SIDE = 2048  # longest side of the overlay of a large image
PREVIEW_ROWS = 512  # of the overlay, drawn at once
RowFiles = dict[str, list[TiffRowWriter]]


def predict_large(
    predictor: Segmenter, image: WindowedImage, job: Job, writer: OutputWriter
) -> ImageRegions:
    """Write the mask `NAME.tif` (palette; of a multilabel task a file per class) of an image and
    the other requested files, and close the image.

    Probabilities are written to a TIFF file per class (float16 for "npz", uint8 for "png"), the
    uncertainty and the novelty to uint8 TIFF files, the overlay to a small image. Only polygons
    need the whole mask in memory, about 10 bytes per pixel.

    Returns:
        The regions, if polygons are requested.
    """
    uncertainty = writer.outputs.uncertainty
    with ExitStack() as open_files:
        open_files.enter_context(closing(image))
        files = _row_files(writer, job.name, image.shape[1])
        for group in files.values():
            for file in group:
                open_files.enter_context(closing(file))
        variance = predictor.has_variance(uncertainty)
        for _, values in predictor.row_chunks([image], variance=variance):
            chunk = predictor.interpret(values, [image], uncertainty=uncertainty)
            _append_rows(files, chunk, writer)
        if writer.outputs.novelty:
            for _, values in predictor.novelty.row_chunks([image]):
                files["novelty"][0].append(novelty_image(values[0, 0].numpy()))
        if writer.outputs.overlays:
            preview = _preview(image, files["mask"], writer)
            write_png(writer.root / OVERLAYS / f"{job.name}.png", preview)
        found = []
        if writer.outputs.polygons is not None:
            label = _read_label(files["mask"], writer, 0, image.shape[0])
            found = writer.write_polygons(job.name, label, job.path)
        colors = None if writer.task == "multilabel" else writer.colors
        tags = geotiff_tags(job.path)
        for file in files["probabilities"] + files["uncertainty"] + files["novelty"]:
            file.write(tags=tags)
        for file in files["mask"]:  # last, so that masks exist only if all files do
            file.write(colors, tags)
    return ImageRegions(job.file_name, image.shape, found)


def _row_files(writer: OutputWriter, name: str, width: int) -> RowFiles:
    """Create the requested files."""
    files: RowFiles = {"mask": [], "probabilities": [], "uncertainty": [], "novelty": []}
    for path in writer.mask_paths(name, ".tif"):
        files["mask"].append(TiffRowWriter(path, width, "uint8"))
    if writer.outputs.probabilities is not None:
        dtype = {"npz": "float16", "png": "uint8"}[writer.outputs.probabilities]
        for path in writer.probability_paths(name, ".tif"):
            files["probabilities"].append(TiffRowWriter(path, width, dtype))
    if writer.outputs.uncertainty:
        path = writer.root / UNCERTAINTY / f"{name}.tif"
        files["uncertainty"].append(TiffRowWriter(path, width, "uint8"))
    if writer.outputs.novelty:
        path = writer.root / NOVELTY / f"{name}.tif"
        files["novelty"].append(TiffRowWriter(path, width, "uint8"))
    return files


def _append_rows(files: RowFiles, chunk: Prediction, writer: OutputWriter) -> None:
    """Add a row chunk of one image to all files."""
    masks = chunk.label.numpy()
    if writer.task == "multilabel":
        masks = masks[0] * 255
    for file, rows in zip(files["mask"], masks, strict=True):
        file.append(rows)
    if writer.outputs.probabilities is not None:
        planes = chunk.probabilities[0].numpy()
        if writer.outputs.probabilities == "png":
            planes = to_uint8(planes)
        for file, rows in zip(files["probabilities"], planes, strict=True):
            file.append(rows)
    if writer.outputs.uncertainty:
        rows = uncertainty_image(chunk.uncertainty[0].numpy(), writer.num_views)
        files["uncertainty"][0].append(rows)


def _read_label(
    masks: list[TiffRowWriter], writer: OutputWriter, top: int, count: int
) -> np.ndarray:
    """Read `count` rows of the mask from `top` on."""
    rows = [file.read(top, count) for file in masks]
    if writer.task == "multilabel":
        return np.stack(rows) // 255
    return rows[0]


def _preview(image: WindowedImage, masks: list[TiffRowWriter], writer: OutputWriter) -> np.ndarray:
    """Draw the overlay of every n-th pixel."""
    height, width = image.shape
    step = -(-max(height, width) // PREVIEW_SIDE)
    count = -(-PREVIEW_ROWS // step) * step
    images, labels = [], []
    for top in range(0, height, count):
        rows = image.read(top, 0, min(count, height - top), width)
        label = _read_label(masks, writer, top, count)
        # Copies: a view would keep all the pixels that it leaves out.
        images.append(rows[::step, ::step].copy())
        labels.append(label[..., ::step, ::step].copy())
    return writer.overlay(np.concatenate(images), np.concatenate(labels, axis=-2))
