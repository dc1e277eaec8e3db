"""Columns of CSV tables with the class probabilities of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ALL = 20  # classes; of more, only the most likely ones have columns
TOP = 5


def probability_columns(classes: Sequence[str]) -> list[str]:
    """Return the names of the columns: CLASS/probability of all classes; if there are more than
    20, class_1, probability_1, ... of the five most likely.
    """
    if len(classes) <= ALL:
        return [f"{name}/probability" for name in classes]
    columns = []
    for rank in range(1, TOP + 1):
        columns += [f"class_{rank}", f"probability_{rank}"]
    return columns


def probability_cells(classes: Sequence[str], probabilities: Sequence[float]) -> list[str]:
    """Return the cells of an image for `probability_columns`, from its (N,) probabilities."""
    if len(classes) <= ALL:
        return [f"{value:.6g}" for value in probabilities]
    cells = []
    for index in np.argsort(-np.asarray(probabilities), kind="stable")[:TOP]:
        cells += [classes[index], f"{probabilities[index]:.6g}"]
    return cells
