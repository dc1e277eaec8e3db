"""Confusion matrices as images: of images or pixels, colors being shares of the true class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kanseg.visualization.figures import save_figure

NUMBERED = 21  # classes up to which numbers are written into the matrix
NAMED = 220  # classes up to which each has its name on the axes, and the image grows
LONGEST = 24
OUTCOMES = ("not there, left out", "not there, made up", "there, missed", "there, found")


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Counts (N, M) -> shares of their row's sum, (N, M) float64; NaN in rows without any."""
    total = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)


def pixel_confusion(per_image: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Confusion matrices of images, (N, N) with truth by rows or multilabel (N, 2, 2) -> counts
    and shares of the truth over the set.

    Both are (N, N), or of multilabel (N, 4) with the columns OUTCOMES: the first two are shares of
    the pixels without the class, the others of those with it.
    """
    total = np.sum([np.asarray(matrix) for matrix in per_image.values()], axis=0)
    if total.ndim == 2:
        return total, row_shares(total)
    return total.reshape(-1, 4), np.hstack([row_shares(total[:, 0]), row_shares(total[:, 1])])


def draw_pixel_confusion(
    per_image: Mapping[int, np.ndarray], classes: Sequence[str], path: Path
) -> Path:
    """Write the confusion matrix over the pixels of a set as a PNG: shares of the truth, and
    counts.
    """
    counts, shares = pixel_confusion(per_image)
    multilabel = next(iter(per_image.values())).ndim == 3
    title = f"pixels of {len(per_image)} image{'s' * (len(per_image) != 1)}"
    if not multilabel:
        title = "\n".join([f"{title}, {_right(counts)}", *confused(counts, classes)])
    texts = [
        [_share_and_count(share, count) for share, count in zip(*row, strict=True)]
        for row in zip(shares, counts, strict=True)
    ]
    cell = float(np.interp(len(classes), (2, 8, 21), (1.1, 0.75, 0.58)))
    return draw_matrix(
        shares,
        classes,
        path,
        columns=OUTCOMES if multilabel else None,
        texts=texts,
        title=title,
        cell=cell,
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
    """Write a matrix as a PNG in which every name and number can be read, up to NUMBERED classes;
    beyond that the numbers, then names, are left out.

    Args:
        shares: (N, M) in [0, 1], the colors; NaN is gray.
        classes: names of the N rows.
        path: PNG file.
        columns: names of the M columns, by default those of the rows.
        texts: what is written into each cell.
        title: above the matrix.
        cell: side of a cell in inches; by default it shrinks with the number of classes.
    """
    from matplotlib.figure import Figure

    rows, names = [_short(name) for name in classes], [_short(name) for name in columns or classes]
    count = len(rows)
    cell = cell or float(np.interp(count, (2, 20, 60, NAMED), (0.8, 0.45, 0.2, 0.11))) * min(
        1, NAMED / count
    )
    size = float(np.clip(cell * 72 * 0.75, 4, 10))
    figure = Figure(figsize=(1.3 * len(names) * cell + 1, 1.3 * count * cell + 1))
    axis = figure.add_subplot()
    shown = axis.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1)
    axis.set_facecolor("0.85")
    step = -(-count // NAMED)
    axis.set_xticks(
        range(0, len(names), step), names[::step], rotation=90, fontsize=size, parse_math=False
    )
    axis.set_yticks(range(0, count, step), rows[::step], fontsize=size, parse_math=False)
    axis.set_xlabel("prediction")
    axis.set_ylabel("truth")
    if count > NUMBERED:  # lines to follow a row to its name
        axis.set_xticks(np.arange(0, count, 10) - 0.5, minor=True)
        axis.set_yticks(np.arange(0, count, 10) - 0.5, minor=True)
        axis.grid(which="minor", color="0.8", linewidth=0.5)
        axis.tick_params(which="minor", length=0)
    else:
        for place, share in np.ndenumerate(shares):
            color = "white" if share > 0.5 else "black"
            axis.text(
                place[1],
                place[0],
                texts[place[0]][place[1]],
                ha="center",
                va="center",
                fontsize=_text_size(texts, cell),
                color=color,
            )
    axis.set_title(title, fontsize=9, loc="left", parse_math=False)
    figure.colorbar(shown, ax=axis, label="share of the true class", fraction=0.046, pad=0.04)
    return save_figure(figure, path)


def confused(matrix: np.ndarray, classes: Sequence[str]) -> list[str]:
    """A heading and the three pairs of classes that are most often taken for each other; nothing
    where nothing is wrong.
    """
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    worst = [divmod(int(i), len(matrix)) for i in np.argsort(-wrong, axis=None, kind="stable")[:3]]
    pairs = [
        f"{_short(classes[a])} for {_short(classes[b])}: {wrong[a, b]:,}"
        for a, b in worst
        if wrong[a, b]
    ]
    return ["truth taken for prediction most often:", *pairs] if pairs else []


def _right(matrix: np.ndarray) -> str:
    total = matrix.sum()
    return f"{np.trace(matrix) / total:.1%} right" if total else "none of which counts"


def _text_size(texts: Sequence[Sequence[str]], cell: float) -> float:
    """Points, so that the widest line of all fits into a cell and two lines do."""
    widest = max(
        (len(line) for row in texts for text in row for line in text.split("\n")), default=1
    )
    return float(np.clip(min(cell * 72 * 0.4, 0.9 * cell * 72 / (0.62 * max(widest, 1))), 4, 10))


def _share_and_count(share: float, count: int) -> str:
    if not count:
        return ""
    percent = (
        f"{100 * share:.0f}%" if 0.0995 <= share < 0.995 or share == 1 else f"{100 * share:.1f}%"
    )
    percent = {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(percent, percent)
    return f"{percent}\n{_compact(int(count))}"


def _compact(count: int) -> str:
    """Three digits and a letter: 950, 12.3k, 4.56M."""
    for limit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return (
                f"{count / limit:.3g}{letter}"
                if count / limit < 999.5
                else f"{count / limit:.0f}{letter}"
            )
    return str(count)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
