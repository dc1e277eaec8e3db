"""Images of a classifier: its confusion matrix, and sample images with their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from kanseg.data.io.images import write_png
from kanseg.data.overlay import viewable
from kanseg.metrics.classification import Classified
from kanseg.visualization.confusion import confused, draw_matrix, row_shares
from kanseg.visualization.fonts import font_for
from kanseg.visualization.image_grid import fitted, resized

RIGHT, WRONG = (20, 110, 50), (215, 25, 50)
CELL, MARGIN, CAPTION = 128, 8, 40  # pixels
FONT_SIZE = 13


def draw_confusion(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write the confusion matrix of `ClassificationMetrics.compute` as a PNG: colors are shares of
    the row (truth), numbers are images.
    """
    matrix, classes = np.asarray(result["confusion"]), list(result["classes"])
    heading = f"{result['images']} images, top1 {result['top1']:.4f}"
    title = "\n".join([heading, *confused(matrix, classes)])
    texts = np.where(matrix == 0, "", matrix.astype(str)).tolist()
    return draw_matrix(row_shares(matrix), classes, Path(path), texts=texts, title=title)


def surest_mistakes(per_image: Mapping[int, Classified], count: int) -> list[int]:
    """The indices of wrongly classified images, the most confident first."""
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
    """Write a grid of images with their class, and below it the prediction; wrong ones have a red
    frame and text.

    Args:
        images: (H, W, C) uint8 or uint16 each; sizes may differ.
        labels, predicted: class indices.
        probabilities: of the prediction, (n,), or of all classes, (n, N).
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
    for place, (image, label, guess, value) in enumerate(samples):
        row, column = divmod(place, columns)
        left, top = MARGIN + column * width, MARGIN + row * height
        cell = _cell(image)
        grid.paste(cell, (left + (CELL - cell.width) // 2, top + (CELL - cell.height) // 2))
        color = RIGHT
        if int(label) != int(guess):
            color = WRONG
            frame = (left - 3, top - 3, left + CELL + 2, top + CELL + 2)
            draw.rectangle(frame, outline=WRONG, width=3)
        _write(draw, (left, top + CELL + 4), classes[int(label)], "black")
        _write(draw, (left, top + CELL + 20), f"{classes[int(guess)]} {value:.2f}", color)
    return write_png(path, np.asarray(grid))


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, color: str | tuple[int, int, int]
) -> None:
    font = font_for(text, FONT_SIZE)
    draw.text(place, fitted(text, CELL, FONT_SIZE), fill=color, font=font)


def _cell(image: np.ndarray) -> Image.Image:
    """The image at most CELL wide and high; small ones are enlarged by a whole factor, so that
    their pixels stay square.
    """
    shown = viewable(image)
    height, width = shown.shape[:2]
    longer = max(height, width)
    factor = CELL // longer if longer <= CELL else CELL / longer
    return resized(shown, (max(1, round(width * factor)), max(1, round(height * factor))))
