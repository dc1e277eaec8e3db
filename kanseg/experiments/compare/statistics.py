"""Statistics of a comparison: differences between variants, their intervals and p-values."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest
from kanseg.utils.tables import markdown_table
from kanseg.utils.text import safe_cell

CONFIDENCE = 0.95
HEADERS = (
    "variant",
    "parameters",
    "multiply-adds",
    "CPU s",
    "seeds",
    "{score}",
    "minus {baseline}",
    "95 % interval",
    "p",
    "better in",
)


@dataclass(frozen=True)
class VariantScores:
    """The scores of a variant's runs.

    Args:
        runs: seed -> content of its metrics.json.
        images: (seeds, images) score of each test image, NaN where it is undefined.
        names: of the images.
    """

    runs: Mapping[int, Mapping[str, Any]]
    images: np.ndarray
    names: tuple[str, ...]

    @property
    def by_seed(self) -> np.ndarray:
        """(seeds,) mean over the images that have a score; NaN where none has."""
        count = (~np.isnan(self.images)).sum(axis=1)
        unknown = np.full(len(count), np.nan)
        return np.divide(np.nansum(self.images, axis=1), count, out=unknown, where=count > 0)


@dataclass(frozen=True)
class Difference:
    """A variant minus the baseline, image by image.

    Args:
        values: (images,) differences of the means over the common seeds, without images whose score
            is undefined in any of the runs.
        mean: mean of the values.
        low, high: 95 % interval of the mean for new seeds and new images.
        p: two-sided p-value of the same t distribution.
        left_out: number of images with an undefined score.
    """

    values: np.ndarray
    mean: float
    low: float
    high: float
    p: float
    left_out: int


def read_scores(runs: Mapping[int, Path], split: str, score: str) -> VariantScores:
    """Read the scores of a variant's runs.

    Args:
        runs: seed -> run folder.
        split: "val" or "test".
        score: a column of the runs' scores_SPLIT.csv.

    Raises:
        InputError: a run without that table or column.
    """
    tables = {seed: read_images(run / f"scores_{split}.csv", score) for seed, run in runs.items()}
    names = next(iter(tables.values())).keys()
    for seed, table in tables.items():
        if table.keys() != names:
            raise InputError(
                f"{runs[seed]}: scores_{split}.csv has other images than those of the other seeds"
            )
    metrics, scores = {}, []
    for seed, run in runs.items():
        metrics[seed] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        scores.append([tables[seed][name] for name in names])
    return VariantScores(metrics, np.array(scores), tuple(names))


def read_images(path: Path, score: str) -> dict[str, float]:
    """Read a column of a run's scores_SPLIT.csv: name of an image -> its score."""
    if not path.is_file():
        raise InputError(
            f"{path} is missing; `python tools/evaluate.py --checkpoint {path.parent} --csv {path}`"
            " writes it"
        )
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = list(rows[0])[1:] if rows else []
    column = safe_cell(score)  # as it is written
    if column not in columns:
        raise InputError(
            f"{path}: no score {score!r}{nearest(score, columns)} (there are: {', '.join(columns)})"
        )
    return {row["name"]: float(row[column] or "nan") for row in rows}


def default_score(run: Path, split: str) -> str:
    """The score that variants are compared by: the IoU of the foreground for two classes, the mean
    IoU for more.
    """
    scores = json.loads((run / "metrics.json").read_text(encoding="utf-8")).get(split)
    if scores is None:
        raise InputError(
            f"{run} has no scores on {split}; give --split a split that the experiment measures"
        )
    classes = list(scores["classes"])
    if len(classes) == 2:
        return f"{classes[1]}/iou"
    return "mean/iou"


def difference(variant: VariantScores, baseline: VariantScores) -> Difference:
    """Subtract the scores of the baseline from those of a variant, for the same images and seeds;
    NaN without a common image or seed.

    Raises:
        InputError: the two were tested on different images.
    """
    both = variant.images.size and baseline.images.size
    if both and set(variant.names) != set(baseline.names):
        raise InputError(
            "the variants were tested on different images, so they cannot be compared image by"
            " image"
        )
    seeds = [seed for seed in variant.runs if seed in baseline.runs]
    if not seeds or not both:
        return Difference(np.empty(0), *[float("nan")] * 4, left_out=len(variant.names))
    columns = [baseline.names.index(name) for name in variant.names]
    mine = [list(variant.runs).index(seed) for seed in seeds]
    theirs = [list(baseline.runs).index(seed) for seed in seeds]
    values = variant.images[mine] - baseline.images[theirs][:, columns]
    defined = ~np.isnan(values).any(axis=0)
    values = values[:, defined]
    return Difference(values.mean(axis=0), *crossed_mean(values), left_out=int((~defined).sum()))


def crossed_mean(values: np.ndarray) -> tuple[float, float, float, float]:
    """Mean of differences d[s, i] of seeds s and images i, its 95 % interval and two-sided p.

    Seeds and images are both samples: d[s, i] = mean + a[s] + b[i] + e[s, i], a two-way crossed
    random model without replication. With n seeds, m images and the mean squares MS of its analysis
    of variance, the variance of the grand mean is estimated by

        (MS_seed + MS_image - MS_residual) / (n m),  at least max(MS_seed, MS_image) / (n m),

    with Satterthwaite's degrees of freedom for a t distribution.

    Args:
        values: (seeds, images), without NaN.

    Returns:
        mean, low, high and p; all but the mean NaN where there is one seed or one image, since
        their spread is unknown then.
    """
    n, m = values.shape
    nan = float("nan")
    if not values.size:
        return nan, nan, nan, nan
    mean = float(values.mean())
    if min(n, m) < 2:
        return mean, nan, nan, nan
    seeds, images = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    free = (n - 1, m - 1, (n - 1) * (m - 1))
    squares = (
        m * np.square(seeds - mean).sum() / free[0],
        n * np.square(images - mean).sum() / free[1],
        np.square(values - seeds - images + mean).sum() / free[2],
    )
    variance = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    if variance == 0:  # the same difference everywhere
        return mean, mean, mean, float(mean == 0)
    from scipy.stats import t

    own = sum(square**2 / each for square, each in zip(squares, free, strict=True))
    freedom = max(variance**2 / own, min(free))
    error = np.sqrt(variance / (n * m))
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom) * error)
    p = float(2 * t.sf(abs(mean) / error, freedom))
    return mean, mean - half, mean + half, p


def holm(p: Sequence[float]) -> np.ndarray:
    """Correct p-values for the number of tests (Holm 1979). NaN does not count as a test and stays
    NaN.
    """
    p = np.asarray(p, dtype=float)
    corrected = np.full_like(p, np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN comes last
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def comparison_rows(variants: Mapping[str, VariantScores], baseline: str) -> list[dict[str, Any]]:
    """Make a row for each variant, the baseline first: size, cost, mean and standard deviation over
    the seeds, and the difference to the baseline.
    """
    others = [name for name in variants if name != baseline]
    differences = {name: difference(variants[name], variants[baseline]) for name in others}
    corrected = corrected_p(differences)
    rows = []
    for name in [baseline, *others]:
        runs, means = variants[name].runs, variants[name].by_seed
        first = next(iter(runs.values()))
        row = {
            "variant": name,
            "parameters": first["parameters"],
            "multiply_adds": first["multiply_adds"],
            "seeds": list(runs),
            "cpu_seconds": float(np.mean([run["cpu_seconds"] for run in runs.values()])),
            "by_seed": means.tolist(),
            "mean": float(means.mean()),
            "std": sample_deviation(means),
        }
        if name in differences:
            row |= difference_row(differences[name], corrected[name])
        rows.append(row)
    return rows


def sample_deviation(values: np.ndarray) -> float:
    """Standard deviation of a sample; NaN for a single value."""
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1))


def corrected_p(differences: Mapping[str, Difference]) -> dict[str, float]:
    """Name -> p of its difference, corrected for the number of differences (`holm`)."""
    corrected = holm([found.p for found in differences.values()])
    return {name: float(p) for name, p in zip(differences, corrected, strict=True)}


def difference_row(found: Difference, p: float) -> dict[str, Any]:
    """The difference to the baseline as entries of a row; `p` is corrected."""
    return {
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "p": p,
        "images": len(found.values),
        "left_out": found.left_out,
        "better_in": int((found.values > 0).sum()),
    }


def comparison_table(rows: Sequence[Mapping[str, Any]], *, score: str) -> str:
    """Format the rows as a Markdown table."""
    names = {"score": score, "baseline": rows[0]["variant"]}
    lines = []
    for row in rows:
        cells = [
            row["variant"],
            f"{row['parameters']:,}",
            f"{row['multiply_adds']:,}",
            f"{row['cpu_seconds']:.0f}",
            str(len(row["seeds"])),
            mean_cell(row),
        ]
        lines.append(cells + difference_cells(row))
    return markdown_table([header.format(**names) for header in HEADERS], lines)


def mean_cell(row: Mapping[str, Any]) -> str:
    """Mean ± standard deviation of a row as text."""
    if np.isnan(row["std"]):
        return f"{row['mean']:.4f}"
    return f"{row['mean']:.4f} ± {row['std']:.4f}"


def difference_cells(row: Mapping[str, Any]) -> list[str]:
    """Difference, interval, p and number of better images as text; empty for a baseline."""
    if "difference" not in row:
        return ["", "", "", ""]
    interval = p = "-"  # undefined, as with a single seed
    if not np.isnan(row["low"]):
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
    if row["p"] < 1e-4:
        p = "< 0.0001"
    elif not np.isnan(row["p"]):
        p = f"{row['p']:.4f}"
    better = f"{row['better_in']} of {row['images']}"
    return [f"{row['difference']:+.4f}", interval, p, better]
