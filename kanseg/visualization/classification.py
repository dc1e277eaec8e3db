"""Images a person can look at, of a classifier: its confusion matrix, and sample images with
what it takes them for.
"""

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
from kanseg.visualization.image_grid import fitted, scaled

RIGHT, WRONG = (20, 110, 50), (215, 25, 50)
CELL, MARGIN, CAPTION = 128, 8, 40


def draw_confusion(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write the confusion matrix of `ClassificationMetrics.compute` as a PNG: colors are shares of
    the row (truth), numbers are images.
    """
    matrix, classes = np.asarray(result["confusion"]), result["classes"]
    title = "\n".join(
        [
            f"{result['images']} images, top1 {result['top1']:.4f}",
            *confused(matrix, list(classes)),
        ]
    )
    texts = [[str(count) if count else "" for count in row] for row in matrix]
    return draw_matrix(row_shares(matrix), list(classes), Path(path), texts=texts, title=title)


def surest_mistakes(per_image: Mapping[int, Classified], count: int) -> list[int]:
    """The indices of images that are taken for a wrong class, the highest probabilities of it
    first.
    """
    wrong = [
        (-float(image.probabilities[image.predicted]), index)
        for index, image in per_image.items()
        if image.predicted != image.label
    ]
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
    """Write a sheet of images, each with its class and below it what the network takes it for;
    wrong ones are framed and written in red.

    Args:
        images: (H, W, C) uint8 or uint16 each; sizes may differ.
        labels, predicted: class indices.
        probabilities: of the prediction, (n,), or of all classes, (n, N).
        classes: names, index 0 first.
        path: PNG file.
        columns: images a row.
    """
    if not len(images):
        raise ValueError("expected at least one image to draw, got none")
    values = np.asarray(probabilities, dtype=np.float64)
    values = values if values.ndim == 1 else values[np.arange(len(values)), np.asarray(predicted)]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width, height = CELL + MARGIN, CELL + CAPTION + MARGIN
    grid = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(grid)
    for place, (image, label, guess, value) in enumerate(
        zip(images, labels, predicted, values, strict=True)
    ):
        left, top = MARGIN + place % columns * width, MARGIN + place // columns * height
        color = RIGHT if int(label) == int(guess) else WRONG
        cell = _cell(image)
        grid.paste(cell, (left + (CELL - cell.width) // 2, top + (CELL - cell.height) // 2))
        if color == WRONG:
            draw.rectangle(
                (left - 3, top - 3, left + CELL + 2, top + CELL + 2), outline=WRONG, width=3
            )
        for below, text, ink in (
            (4, classes[int(label)], "black"),
            (20, f"{classes[int(guess)]} {value:.2f}", color),
        ):
            draw.text(
                (left, top + CELL + below),
                fitted(text, CELL, 13),
                fill=ink,
                font=font_for(text, 13),
            )
    return write_png(path, np.asarray(grid))


def _cell(image: np.ndarray) -> Image.Image:
    """The grid at most CELL wide and high; small ones in whole multiples, so that their pixels
    stay square.
    """
    shown = viewable(image)
    height, width = shown.shape[:2]
    longer = max(height, width)
    factor = CELL // longer if longer <= CELL else CELL / longer
    return scaled(shown, (max(1, round(width * factor)), max(1, round(height * factor))))
