"""Draw confusion matrices of images or pixels; colors are shares of the true class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kanseg.visualization.figures import save_figure

MAX_NUMBERED = 21  # classes up to which numbers are written into the matrix
MAX_NAMED = 220  # classes up to which all have names on the axes, and the image grows
MAX_NAME = 24  # characters
OUTCOMES = ("absent, left out", "absent, made up", "present, missed", "present, found")


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Counts (N, M) -> shares of the sum of their row, (N, M) float64; NaN in empty rows."""
    total = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)


def pixel_confusion(per_image: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sum the confusion matrices of images -> counts, and shares of the true class.

    Both are (N, N), or for multilabel (N, 4) with the columns OUTCOMES; there the first two are
    shares of the pixels without the class, the others of those with it.

    Args:
        per_image: matrices (N, N), rows are the truth; or multilabel (N, 2, 2).
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
    is_multilabel = next(iter(per_image.values())).ndim == 3
    title = "pixels of 1 image" if len(per_image) == 1 else f"pixels of {len(per_image)} images"
    if not is_multilabel:
        title = "\n".join([f"{title}, {_accuracy(counts)}", *confused(counts, classes)])
    texts = []
    for row_of_shares, row in zip(shares, counts, strict=True):
        cells = zip(row_of_shares, row, strict=True)
        texts.append([_share_and_count(share, int(count)) for share, count in cells])
    return draw_matrix(
        shares,
        classes,
        path,
        columns=OUTCOMES if is_multilabel else None,
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
    """Write a matrix as a PNG. Every name and number can be read up to MAX_NUMBERED classes; above,
    first the numbers and then names are left out.

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
    axis.set_xlabel("prediction")
    axis.set_ylabel("truth")
    if count <= MAX_NUMBERED:
        _write_texts(axis, shares, texts, cell)
    else:  # lines help the eye to follow a row to its name
        axis.set_xticks(np.arange(0, count, 10) - 0.5, minor=True)
        axis.set_yticks(np.arange(0, count, 10) - 0.5, minor=True)
        axis.grid(which="minor", color="0.8", linewidth=0.5)
        axis.tick_params(which="minor", length=0)
    axis.set_title(title, fontsize=9, loc="left", parse_math=False)
    figure.colorbar(image, ax=axis, label="share of the true class", fraction=0.046, pad=0.04)
    return save_figure(figure, path)


def _write_texts(axis, shares: np.ndarray, texts: Sequence[Sequence[str]], cell: float) -> None:
    """Write the texts into the cells, in a size at which the widest line and two lines fit."""
    widest = 1
    for row in texts:
        for text in row:
            widest = max(widest, *map(len, text.split("\n")))
    fits = min(cell * 72 * 0.4, 0.9 * cell * 72 / (0.62 * widest))
    size = float(np.clip(fits, 4, 10))
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 0.5 else "black"
        axis.text(
            column, row, texts[row][column], ha="center", va="center", fontsize=size, color=color
        )


def confused(matrix: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The three pairs of classes that are confused most often, under a heading; an empty list if
    nothing is wrong.
    """
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    pairs = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:3]:
        true, predicted = divmod(int(place), len(matrix))
        if wrong[true, predicted]:
            names = f"{_short(classes[true])} for {_short(classes[predicted])}"
            pairs.append(f"{names}: {wrong[true, predicted]:,}")
    return ["truth taken for prediction most often:", *pairs] if pairs else []


def _accuracy(matrix: np.ndarray) -> str:
    total = matrix.sum()
    return f"{np.trace(matrix) / total:.1%} right" if total else "all of them ignored"


def _share_and_count(share: float, count: int) -> str:
    """`12%` and `345` on two lines; shares near 0 and 1 keep a decimal, and are never rounded to
    them.
    """
    if not count:
        return ""
    needs_decimal = share < 0.0995 or 0.995 <= share < 1
    percent = f"{100 * share:.1f}%" if needs_decimal else f"{100 * share:.0f}%"
    percent = {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(percent, percent)
    return f"{percent}\n{_compact(count)}"


def _compact(count: int) -> str:
    """Three digits and a letter: 950, 12.3k, 4.56M."""
    for limit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            number = count / limit
            # 999.5 and more would become 1e+03.
            return f"{number:.3g}{letter}" if number < 999.5 else f"{number:.0f}{letter}"
    return str(count)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."
