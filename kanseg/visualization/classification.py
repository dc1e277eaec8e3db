"""Figures of a classifier: its confusion matrix, and sample images with their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from kanseg.data.io.images import write_png
from kanseg.data.overlay import viewable
from kanseg.metrics.classification import Classified
from kanseg.visualization.confusion import draw_matrix, most_confused, row_shares
from kanseg.visualization.fonts import figure_text, font_for
from kanseg.visualization.image_grid import fitted, resized

RIGHT, WRONG = (20, 110, 50), (215, 25, 50)
CELL, MARGIN, CAPTION = 128, 8, 40  # pixels
FONT_SIZE = 13


def draw_confusion(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write the confusion matrix of `ClassificationMetrics.compute` as a PNG. Numbers are images,
    colors are shares of the true class.
    """
    matrix, classes = np.asarray(result["confusion"]), list(result["classes"])
    top1 = f"{result['top1']:.4f}"
    heading = figure_text("{count} images, top1 {top1}", count=result["images"], top1=top1)
    title = "\n".join([heading, *most_confused(matrix, classes)])
    texts = np.where(matrix == 0, "", matrix.astype(str)).tolist()
    return draw_matrix(row_shares(matrix), classes, Path(path), texts=texts, title=title)


def surest_mistakes(per_image: Mapping[int, Classified], count: int) -> list[int]:
    """Indices of the misclassified images, the most confident predictions first."""
    wrong = []
    for index, image in per_image.items():
        if image.predicted != image.label:
            wrong.append((-float(image.probabilities[image.predicted]), index))
    return [index for _, index in sorted(wrong)[:count]]


def draw_predictions(
    images: Sequence[np.ndarray],
    labels: Sequence[int],
    predicted: Sequence[int],
    probabilities: Sequence[float] | np.ndarray,
    classes: Sequence[str],
    path: Path | str,
    *,
    columns: int = 8,
) -> Path:
    """Write a grid of images as a PNG, each with its class and the prediction below it. Wrong
    predictions have a red frame and red text.

    Args:
        images: (H, W, C) uint8 or uint16 each; sizes may differ.
        labels, predicted: class indices.
        probabilities: (n,) of the predicted class, or (n, N) of all classes.
        classes: names, index 0 first.
        path: PNG file.
        columns: images per row.

    Raises:
        ValueError: no images.
    """
    if not len(images):
        raise ValueError("expected at least one image to draw, got none")
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim == 2:
        values = values[np.arange(len(values)), np.asarray(predicted)]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width, height = CELL + MARGIN, CELL + CAPTION + MARGIN
    grid = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(grid)
    samples = zip(images, labels, predicted, values, strict=True)
    for index, (image, label, predicted_label, probability) in enumerate(samples):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * width, MARGIN + row * height
        cell = _cell(image)
        grid.paste(cell, (left + (CELL - cell.width) // 2, top + (CELL - cell.height) // 2))
        color = RIGHT
        if int(label) != int(predicted_label):
            color = WRONG
            frame = (left - 3, top - 3, left + CELL + 2, top + CELL + 2)
            draw.rectangle(frame, outline=WRONG, width=3)
        prediction = f"{classes[int(predicted_label)]} {probability:.2f}"
        _write(draw, (left, top + CELL + 4), classes[int(label)], "black")
        _write(draw, (left, top + CELL + 20), prediction, color)
    return write_png(path, np.asarray(grid))


def _write(
    draw: ImageDraw.ImageDraw, xy: tuple[int, int], text: str, color: str | tuple[int, int, int]
) -> None:
    font = font_for(text, FONT_SIZE)
    draw.text(xy, fitted(text, CELL, FONT_SIZE), fill=color, font=font)


def _cell(image: np.ndarray) -> Image.Image:
    """Resize an image to at most CELL pixels per side. Small images are enlarged by an integer
    factor, so that their pixels stay square.
    """
    shown = viewable(image)
    height, width = shown.shape[:2]
    factor = CELL / max(height, width)
    if factor >= 1:
        factor = int(factor)
    return resized(shown, (max(1, round(width * factor)), max(1, round(height * factor))))
