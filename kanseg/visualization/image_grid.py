"""Rows of images under each other with captions that always fit, as one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from kanseg.data.label_spec import Color
from kanseg.visualization.fonts import font_for

MARGIN, CAPTION = 4, 22
LARGEST, SMALLEST = (
    512,
    256,
    # sides of a cell: larger images are shrunk, small ones shown in whole multiples up to the
    # second
)
TITLE, NAME = (
    200,
    480,
)  # widths that captions of a column and of a row get even where the cells are narrower


def fitted(text: str, width: float, size: int = 14) -> str:
    """The text, with dots in its middle where it would be wider than so many pixels."""
    font = font_for(text, size)
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 1 and font.getlength(_cut(text, kept)) > width:
        kept -= 1
    return _cut(text, kept)


def _cut(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"


def comparison_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str],
    names: Sequence[str],
    *,
    legend: Sequence[tuple[str, Color]] = (),
    largest: int = LARGEST,
) -> np.ndarray:
    """Rows of cells, a sample each, as one (H, W, 3) uint8 image.

    Args:
        rows: the cells of each sample, (h, w, 3) uint8; all are shown at the size of the row's
            first one (small images in whole multiples, large ones shrunk).
        columns: what is written under the cells of each column.
        names: what is written above each row; texts that are too long lose their middle.
        legend: colored squares with names at the bottom, in as many lines as they need.
        largest: pixels of the longer side of a cell beyond which it shrinks.

    Raises:
        ValueError: no rows, or cells and names that are not as many as columns and rows.
    """
    if not rows:
        raise ValueError("expected at least one row of images, got none")
    sizes = [_cell_size(cells[0], largest) for cells in rows]
    longest = min(TITLE, max(font_for(title).getlength(title) for title in columns))
    column_width = max(*(width for width, _ in sizes), int(longest) + 1) + MARGIN
    named = min(NAME, max(font_for(name).getlength(name) for name in names))
    width = max(len(columns) * column_width, int(named) + 1 + MARGIN) + MARGIN
    key = _legend(legend, width)
    image = Image.new(
        "RGB",
        (width, sum(height + 2 * CAPTION + MARGIN for _, height in sizes) + key.height),
        "white",
    )
    draw, top = ImageDraw.Draw(image), 0
    for cells, name, size in zip(rows, names, sizes, strict=True):
        draw.text(
            (MARGIN, top + 3), fitted(name, width - 2 * MARGIN), fill="black", font=font_for(name)
        )
        for column, (cell, title) in enumerate(zip(cells, columns, strict=True)):
            left = MARGIN + column * column_width
            image.paste(scaled(cell, size), (left, top + CAPTION))
            draw.text(
                (left, top + CAPTION + size[1] + 2),
                fitted(title, column_width - MARGIN),
                fill=(90, 90, 90),
                font=font_for(title),
            )
        top += size[1] + 2 * CAPTION + MARGIN
    image.paste(key, (0, image.height - key.height))
    return np.asarray(image)


def scaled(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """An image at (width, height): enlarged pixels stay square, and shrinking averages, so that
    nothing small disappears.
    """
    resized = Image.fromarray(np.ascontiguousarray(image))
    return resized.resize(
        size, Image.Resampling.NEAREST if size[0] >= resized.width else Image.Resampling.BOX
    )


def _cell_size(image: np.ndarray, largest: int) -> tuple[int, int]:
    """(width, height) of a cell."""
    height, width = image.shape[:2]
    longer = max(height, width)
    factor = max(1, min(SMALLEST, largest) // longer) if longer <= largest else largest / longer
    return max(1, round(width * factor)), max(1, round(height * factor))


def _legend(entries: Sequence[tuple[str, Color]], width: int) -> Image.Image:
    """Colored squares with names, in as many lines as they need."""
    places, x, y = [], MARGIN, 2
    for name, color in entries:
        text = fitted(name, width - 2 * MARGIN - 22)
        needed = 22 + int(font_for(text).getlength(text)) + 14
        if x + needed - 14 > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + CAPTION
        places.append((x, y, text, tuple(color)))
        x += needed
    image = Image.new("RGB", (width, y + CAPTION if entries else 1), "white")
    draw = ImageDraw.Draw(image)
    for x, y, text, color in places:
        draw.rectangle((x, y + 2, x + 14, y + 16), fill=color, outline="black")
        draw.text((x + 20, y), text, fill="black", font=font_for(text))
    return image
