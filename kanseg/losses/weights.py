"""Class weights, given or computed from class frequencies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from kanseg.utils.errors import InputError


def balanced_weights(labels: Sequence[int], num_classes: int) -> list[float]:
    """Class weights inversely proportional to the numbers of images, n / (N * n_c); 0 for a class
    without images.
    """
    counts = torch.bincount(torch.as_tensor(labels, dtype=torch.int64), minlength=num_classes)
    return frequency_weights(counts.numpy(), "balanced")


def frequency_weights(counts: np.ndarray, kind: str) -> list[float]:
    """Class weights that are larger for rare classes; 0 for a class without pixels.

    Args:
        counts: (N,) pixels of each class, or of a multilabel task (N, 2) pixels [without, with]
            each class.
        kind: "balanced": n / (N * n_c) for n pixels in total; "median": median of the frequencies /
            frequency of the class (Eigen & Fergus 2015, with frequencies over the whole set), the
            median over the classes that occur.
    """
    counts = np.asarray(counts)
    if counts.ndim == 2:
        counts = counts[:, 1]
    if not counts.any():
        return [0.0] * len(counts)
    reference = {
        "balanced": counts.sum() / len(counts),
        "median": np.median(counts[counts > 0]),
    }[kind]
    weights = np.divide(reference, counts, out=np.zeros(len(counts)), where=counts > 0)
    return weights.tolist()


def is_weighting(weights: Iterable[float]) -> bool:
    """True if all weights are finite and 0 or more, and one of them is positive."""
    weights = list(weights)
    return all(0 <= weight < float("inf") for weight in weights) and sum(weights) > 0


def check_class_weights(weights: Sequence[float], classes: Sequence[str] | None = None) -> None:
    """Raise InputError unless `is_weighting(weights)`, and there is one per class if `classes` are
    given.
    """
    if not is_weighting(weights):
        raise InputError(
            "training.class_weights must be 0 or more and one of them positive, got"
            f" {list(weights)}"
        )
    if classes is not None and len(weights) != len(classes):
        raise InputError(
            f"training.class_weights has {len(weights)} numbers for {len(classes)} classes"
            f" ({', '.join(classes)}); give one per class"
        )
