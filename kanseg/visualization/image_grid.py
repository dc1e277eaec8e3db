"""Draw a grid of images with captions as one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from kanseg.data.label_spec import Color
from kanseg.visualization.fonts import font_for

MARGIN, CAPTION = 4, 22  # pixels between cells, and of a line of text
MAX_CELL = 512  # longer side of a cell; larger images are shrunk
MIN_CELL = 256  # small images are enlarged by integer factors, up to this
# Captions may be this wide even if the cells are narrower.
COLUMN_CAPTION, ROW_CAPTION = 200, 480
SQUARE = 14  # side of the colored squares of a legend
GRAY = (90, 90, 90)


def fitted(text: str, width: float, size: int = 14) -> str:
    """Replace the middle of a text by dots if it is wider than `width` pixels."""
    font = font_for(text, size)
    shortened = text
    kept = len(text)
    while kept > 1 and font.getlength(shortened) > width:
        kept -= 1
        end = len(text) - kept // 2
        shortened = f"{text[: (kept + 1) // 2]}...{text[end:]}"
    return shortened


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str],
    names: Sequence[str],
    *,
    legend: Sequence[tuple[str, Color]] = (),
    max_cell: int = MAX_CELL,
) -> np.ndarray:
    """Draw a row of images for each sample: (H, W, 3) uint8.

    Args:
        rows: the images of each sample, (h, w, 3) uint8. All images of a row are resized like its
            first one: small images are enlarged by an integer factor, large ones shrunk.
        columns: captions below the images of each column.
        names: captions above the rows. Captions that are too wide are shortened in the middle.
        legend: (name, color) of the squares at the bottom, wrapped to the width.
        max_cell: images with a longer side of more pixels are shrunk.

    Raises:
        ValueError: no rows, or numbers of images and names that differ from those of columns and
            rows.
    """
    if not rows:
        raise ValueError("expected at least one row of images, got none")
    sizes = [_cell_size(cells[0], max_cell) for cells in rows]
    cell_width = 0
    height = 0
    for size in sizes:
        cell_width = max(cell_width, size[0])
        height += size[1] + 2 * CAPTION + MARGIN
    column_width = max(cell_width, int(min(COLUMN_CAPTION, _text_width(columns))) + 1) + MARGIN
    row_width = int(min(ROW_CAPTION, _text_width(names))) + 1 + MARGIN
    width = max(len(columns) * column_width, row_width) + MARGIN
    key = _draw_legend(legend, width)
    height += key.height

    grid = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(grid)
    top = 0
    for cells, name, size in zip(rows, names, sizes, strict=True):
        _write(draw, MARGIN, top, fitted(name, width - 2 * MARGIN), "black")
        top += CAPTION
        left = MARGIN
        for cell, caption in zip(cells, columns, strict=True):
            grid.paste(resized(cell, size), (left, top))
            _write(draw, left, top + size[1], fitted(caption, column_width - MARGIN), GRAY)
            left += column_width
        top += size[1] + CAPTION + MARGIN
    grid.paste(key, (0, height - key.height))
    return np.asarray(grid)


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, text: str, color: str | Color) -> None:
    """Write a text in the middle of a line of CAPTION pixels: Chinese fonts are higher than DejaVu
    Sans, and would reach over its end.
    """
    font = font_for(text)
    above = (CAPTION - sum(font.getmetrics())) // 2
    draw.text((left, top + above), text, fill=color, font=font)


def _text_width(texts: Sequence[str]) -> float:
    """Width of the widest text in pixels."""
    return max(font_for(text).getlength(text) for text in texts)


def resized(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Resize an image to (width, height). Enlarged pixels stay square; shrinking averages, so that
    small objects stay visible.
    """
    original = Image.fromarray(np.ascontiguousarray(image))
    if size[0] >= original.width:
        return original.resize(size, Image.Resampling.NEAREST)
    return original.resize(size, Image.Resampling.BOX)


def _cell_size(image: np.ndarray, max_cell: int) -> tuple[int, int]:
    """(width, height) of an image in the grid."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer > max_cell:
        factor = max_cell / longer
    else:
        factor = max(1, min(MIN_CELL, max_cell) // longer)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _draw_legend(entries: Sequence[tuple[str, Color]], width: int) -> Image.Image:
    """Draw colored squares with names, wrapped to `width` pixels."""
    if not entries:
        return Image.new("RGB", (width, 1), "white")
    positions = []
    x, y = MARGIN, 2
    for name, color in entries:
        text = fitted(name, width - 2 * MARGIN - SQUARE - 8)
        needed = SQUARE + 8 + int(font_for(text).getlength(text))
        if x + needed > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + CAPTION
        positions.append((x, y, text, tuple(color)))
        x += needed + 14
    legend = Image.new("RGB", (width, y + CAPTION), "white")
    draw = ImageDraw.Draw(legend)
    for x, y, text, color in positions:
        upper = y + (CAPTION - SQUARE) // 2
        square = (x, upper, x + SQUARE, upper + SQUARE)
        draw.rectangle(square, fill=color, outline="black")
        _write(draw, x + SQUARE + 6, y, text, "black")
    return legend
