"""Does the novelty map know what is new? Its scores on another data set, and on errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu, spearmanr

from kanseg.data.io.images import decode_image
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.inference.sources import ArrayImage

PIXELS = 256  # of an image for the scores of pixels, evenly spaced


class NoveltyScores(NamedTuple):
    """How well a map separates the images of another data set from one's own.

    Args:
        image_auroc: probability that a new image has a larger mean than an own one (ties count
            half); 0.5 is chance.
        pixel_auroc: the same of single pixels.
        error_correlation: Spearman's rank correlation of the mean of an own image with its error;
            NaN without errors.
    """

    image_auroc: float
    pixel_auroc: float
    error_correlation: float


def validate_novelty(
    segmenter: Segmenter,
    own: Sequence[Path],
    other: Sequence[Path],
    errors: Sequence[float] | None = None,
) -> dict[str, NoveltyScores]:
    """Score the novelty map, and beside it the uncertainty, which every network has.

    Args:
        segmenter: with its `novelty` set, see `kanseg.inference.novelty.novelty_segmenter`.
        own: files of test images of the data set that the network was trained on.
        other: files of images of another data set.
        errors: of each own image, such as 1 - IoU.

    Returns:
        "novelty" and "uncertainty" -> their scores.
    """
    maps: dict[str, list[list[np.ndarray]]] = {"novelty": [], "uncertainty": []}
    for paths in (own, other):
        predictions = list(_predictions(segmenter, paths))
        maps["novelty"].append([found.novelty.numpy() for found in predictions])
        maps["uncertainty"].append([found.uncertainty.numpy() for found in predictions])
    return {name: _scores(*values, errors) for name, values in maps.items()}


def _predictions(segmenter: Segmenter, paths: Sequence[Path]) -> Iterator[Prediction]:
    for path in paths:
        image = ArrayImage(decode_image(path), str(path))
        yield segmenter.predict([image], uncertainty=True, novelty=True)[0]


def _scores(
    own: Sequence[np.ndarray], other: Sequence[np.ndarray], errors: Sequence[float] | None
) -> NoveltyScores:
    means = [[values.mean() for values in maps] for maps in (own, other)]
    pixels = [np.concatenate([_pixels(values) for values in maps]) for maps in (own, other)]
    correlation = float("nan")
    if errors is not None:
        correlation = float(spearmanr(means[0], errors).statistic)
    return NoveltyScores(auroc(*means), auroc(*pixels), correlation)


def _pixels(values: np.ndarray) -> np.ndarray:
    """Evenly spaced pixels of a map (H, W)."""
    indices = np.linspace(0, values.size - 1, min(PIXELS, values.size)).round().astype(int)
    return values.ravel()[indices]


def auroc(negatives: Sequence[float], positives: Sequence[float]) -> float:
    """Probability that a positive has a larger value than a negative; ties count half."""
    statistic = mannwhitneyu(positives, negatives).statistic
    return float(statistic) / (len(positives) * len(negatives))
