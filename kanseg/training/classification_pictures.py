"""Pictures a person can look at, of a classifier: its confusion matrix, and sample pictures with what it takes them for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kanseg.data.drawing import viewable
from kanseg.data.images import write_png

RIGHT, WRONG = (20, 110, 50), (215, 25, 50)
CELL, MARGIN, CAPTION = 128, 8, 40
NUMBERED = 20  # classes up to which counts are written into the matrix
NAMED = 220  # classes up to which each has its name on the axes, and the picture grows
LONGEST = 24


def draw_confusion(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write the confusion matrix of `ClassificationMetrics.compute` as a PNG: colours are shares of the row (truth)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = Path(path)
    matrix, names = np.asarray(result["confusion"]), [_short(name) for name in result["classes"]]
    count = len(names)
    support = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, support, out=np.zeros(matrix.shape), where=support > 0)
    cell = float(np.interp(count, (2, 20, 60, NAMED), (0.8, 0.45, 0.2, 0.11))) * min(1, NAMED / count)  # inches
    font = float(np.clip(cell * 72 * 0.75, 4, 10))
    figure, axis = pyplot.subplots(figsize=(1.3 * count * cell + 1, 1.3 * count * cell + 1))
    shown = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    step = -(-count // NAMED)
    axis.set_xticks(range(0, count, step), names[::step], rotation=90, fontsize=font)
    axis.set_yticks(range(0, count, step), names[::step], fontsize=font)
    axis.set_xlabel("prediction")
    axis.set_ylabel("truth")
    if count > NUMBERED:  # lines to follow a row to its name
        axis.set_xticks(np.arange(0, count, 10) - 0.5, minor=True)
        axis.set_yticks(np.arange(0, count, 10) - 0.5, minor=True)
        axis.grid(which="minor", color="0.8", linewidth=0.5)
        axis.tick_params(which="minor", length=0)
    else:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if share[row, column] > 0.5 else "black"
            axis.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=font * 0.85, color=colour)
    axis.set_title(_title(result, matrix), fontsize=9, loc="left")
    figure.colorbar(shown, ax=axis, label="share of the true class", fraction=0.046, pad=0.04)
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight", pad_inches=0.15)  # however long the names are
    pyplot.close(figure)
    temporary.replace(path)
    return path


def _title(result: Mapping[str, Any], matrix: np.ndarray) -> str:
    """Accuracy, and the three pairs that are most often taken for each other."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    names = [_short(name) for name in result["classes"]]
    worst = [divmod(int(i), len(matrix)) for i in np.argsort(-wrong, axis=None, kind="stable")[:3]]
    pairs = [f"{names[a]} for {names[b]}: {wrong[a, b]}" for a, b in worst if wrong[a, b]]
    accuracy = f"{result['pictures']} pictures, top1 {result['top1']:.4f}"
    return "\n".join([accuracy, *(["truth taken for prediction most often:", *pairs] if pairs else [])])


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
    """Write a sheet of pictures, each with its class and below it what the network takes it for; wrong ones are framed and written in red.

    Args:
        images: (H, W, C) uint8 or uint16 each; sizes may differ.
        labels, predicted: class indices.
        probabilities: of the prediction, (n,), or of all classes, (n, N).
        classes: names, index 0 first.
        path: PNG file.
        columns: pictures a row.
    """
    if not len(images):
        raise ValueError("expected at least one picture to draw, got none")
    values = np.asarray(probabilities, dtype=np.float64)
    values = values if values.ndim == 1 else values[np.arange(len(values)), np.asarray(predicted)]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width, height = CELL + MARGIN, CELL + CAPTION + MARGIN
    picture = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for place, (image, label, guess, value) in enumerate(zip(images, labels, predicted, values, strict=True)):
        left, top = MARGIN + place % columns * width, MARGIN + place // columns * height
        colour = RIGHT if int(label) == int(guess) else WRONG
        cell = _cell(image)
        picture.paste(cell, (left + (CELL - cell.width) // 2, top + (CELL - cell.height) // 2))
        if colour == WRONG:
            draw.rectangle((left - 3, top - 3, left + CELL + 2, top + CELL + 2), outline=WRONG, width=3)
        draw.text((left, top + CELL + 4), _fitting(classes[int(label)], "", font), fill="black", font=font)
        draw.text((left, top + CELL + 20), _fitting(classes[int(guess)], f" {value:.2f}", font), fill=colour, font=font)
    return write_png(path, np.asarray(picture))


def _cell(image: np.ndarray) -> Image.Image:
    """The picture at most CELL wide and high; small ones in whole multiples, so that their pixels stay square."""
    picture = Image.fromarray(viewable(image))
    largest = max(picture.size)
    factor = CELL // largest if largest <= CELL else CELL / largest
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if largest <= CELL else Image.Resampling.BICUBIC)


def _fitting(name: str, tail: str, font: Any) -> str:
    """The name, shortened so that it fits under a picture with the tail."""
    text, kept = name + tail, len(name)
    while font.getlength(text) > CELL and kept > 1:
        kept -= 1
        text = f"{name[:kept]}...{tail}"
    return text


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
