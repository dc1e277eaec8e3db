"""Draw confusion matrices of images or pixels, colored by the share of the true class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kanseg.visualization.figures import save_figure
from kanseg.visualization.fonts import figure_text

MAX_NUMBERED = 21  # with more classes the cells have no numbers
MAX_NAMED = 220  # with more classes some have no name on the axes
MAX_NAME = 24  # characters


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Counts (N, M) -> shares of the sum of their row, (N, M) float64; NaN in empty rows."""
    total = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)


def pixel_confusion(per_image: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sum the confusion matrices of images -> counts, and shares of the true class.

    Both are (N, N), or for multilabel (N, 4) with the columns true negative, false positive, false
    negative, true positive. The first two of these are shares of the pixels without the class, the
    last two of the pixels with it.

    Args:
        per_image: matrices (N, N), target by rows; or multilabel (N, 2, 2).
    """
    total = np.sum([np.asarray(matrix) for matrix in per_image.values()], axis=0)
    if total.ndim == 2:
        return total, row_shares(total)
    return total.reshape(-1, 4), np.hstack([row_shares(total[:, 0]), row_shares(total[:, 1])])


def draw_pixel_confusion(
    per_image: Mapping[int, np.ndarray], classes: Sequence[str], path: Path
) -> Path:
    """Write the confusion matrix over the pixels of a set as a PNG, with shares and counts.

    Args:
        per_image: as of `pixel_confusion`.
        classes: names.
        path: PNG file.
    """
    counts, shares = pixel_confusion(per_image)
    title = figure_text("pixels of one image")
    if len(per_image) != 1:
        title = figure_text("pixels of {count} images", count=len(per_image))
    columns: Sequence[str] = [
        figure_text("true negative"),
        figure_text("false positive"),
        figure_text("false negative"),
        figure_text("true positive"),
    ]
    is_multilabel = next(iter(per_image.values())).ndim == 3
    if not is_multilabel:
        accuracy = figure_text("all of them ignored")
        if counts.sum():
            share = f"{np.trace(counts) / counts.sum():.1%}"
            accuracy = figure_text("{share} correct", share=share)
        title = "\n".join([f"{title}, {accuracy}", *most_confused(counts, classes)])
        columns = classes
    texts = []
    for row_of_shares, row in zip(shares, counts, strict=True):
        texts.append(list(map(_share_and_count, row_of_shares, row.tolist())))
    return draw_matrix(
        shares,
        classes,
        path,
        columns=columns,
        texts=texts,
        title=title,
        cell=float(np.interp(len(classes), (2, 8, 21), (1.1, 0.75, 0.58))),
    )


def draw_matrix(
    shares: np.ndarray,
    classes: Sequence[str],
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    texts: Sequence[Sequence[str]],
    title: str,
    cell: float | None = None,
) -> Path:
    """Write a matrix as a PNG. Beyond MAX_NUMBERED classes the numbers are left out, beyond
    MAX_NAMED some of the names too.

    Args:
        shares: (N, M) in [0, 1], the colors; NaN is gray.
        classes: names of the N rows.
        path: PNG file.
        columns: names of the M columns, by default those of the rows.
        texts: the text of each cell.
        title: above the matrix.
        cell: side of a cell in inches; by default it shrinks with the number of classes.
    """
    from matplotlib.figure import Figure

    rows = [_short(name) for name in classes]
    names = [_short(name) for name in columns or classes]
    count = len(rows)
    if cell is None:
        cell = float(np.interp(count, (2, 20, 60, MAX_NAMED), (0.8, 0.45, 0.2, 0.11)))
        cell *= min(1, MAX_NAMED / count)
    font_size = float(np.clip(cell * 72 * 0.75, 4, 10))
    figure = Figure(figsize=(1.3 * len(names) * cell + 1, 1.3 * count * cell + 1))
    axis = figure.add_subplot()
    image = axis.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1)
    axis.set_facecolor("0.85")
    step = -(-count // MAX_NAMED)
    style = {"fontsize": font_size, "parse_math": False}
    axis.set_xticks(range(0, len(names), step), names[::step], rotation=90, **style)
    axis.set_yticks(range(0, count, step), rows[::step], **style)
    axis.set_xlabel(figure_text("prediction"))
    axis.set_ylabel(figure_text("ground truth"))
    if count <= MAX_NUMBERED:
        _write_texts(axis, shares, texts, cell)
    else:  # lines help the eye to follow a row to its name
        axis.set_xticks(np.arange(0, count, 10) - 0.5, minor=True)
        axis.set_yticks(np.arange(0, count, 10) - 0.5, minor=True)
        axis.grid(which="minor", color="0.8", linewidth=0.5)
        axis.tick_params(which="minor", length=0)
    axis.set_title(title, fontsize=9, loc="left", parse_math=False)
    label = figure_text("share of the true class")
    figure.colorbar(image, ax=axis, label=label, fraction=0.046, pad=0.04)
    return save_figure(figure, path)


def _write_texts(axis, shares: np.ndarray, texts: Sequence[Sequence[str]], cell: float) -> None:
    """Write the texts into the cells, in a size at which two lines and the widest line fit."""
    widest = 1
    for row in texts:
        lines = "\n".join(row).split("\n")
        widest = max(widest, *map(len, lines))
    fits = min(cell * 72 * 0.4, 0.9 * cell * 72 / (0.62 * widest))
    size = float(np.clip(fits, 4, 10))
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 0.5 else "black"
        axis.text(
            column, row, texts[row][column], ha="center", va="center", fontsize=size, color=color
        )


def most_confused(matrix: np.ndarray, classes: Sequence[str]) -> list[str]:
    """List the three most frequent confusions, `horse as cow: 12`, under a heading; an empty list
    if there are none.
    """
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    lines = [figure_text("most frequent confusions:")]
    for flat_index in np.argsort(-wrong, axis=None, kind="stable")[:3].tolist():
        true, predicted = divmod(flat_index, len(matrix))
        if wrong[true, predicted]:
            names = figure_text(
                "{true} as {predicted}",
                true=_short(classes[true]),
                predicted=_short(classes[predicted]),
            )
            lines.append(f"{names}: {wrong[true, predicted]:,}")
    return lines if len(lines) > 1 else []


def _share_and_count(share: float, count: int) -> str:
    """`12%` and `345` on two lines. Shares close to 0 or 1 have a decimal and are not rounded to 0
    or 1.
    """
    if not count:
        return ""
    if share < 0.0995 or 0.995 <= share < 1:
        percent = f"{100 * share:.1f}%"
    else:
        percent = f"{100 * share:.0f}%"
    percent = {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(percent, percent)
    return f"{percent}\n{_compact(count)}"


def _compact(count: int) -> str:
    """Three digits and a letter: 950, 12.3k, 4.56M."""
    for limit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            number = count / limit
            if number >= 999.5:  # .3g would print 1e+03
                return f"{number:.0f}{letter}"
            return f"{number:.3g}{letter}"
    return str(count)


def _short(name: str) -> str:
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 3]}..."
