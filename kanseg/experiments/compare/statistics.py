"""Statistics of a comparison: differences between variants, their intervals and p-values."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    "95 % over seeds",
    "p over seeds",
    "95 % over images",
    "better in",
)
CORRECT = "correct"  # a column of a classifier's table: 1 or 0
FEW_SEEDS = 3  # with fewer, a sentence says that seeds cannot be judged


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
    """A variant minus the baseline, for the same seeds and images.

    Args:
        values: (seeds, images) differences, without images whose score is undefined in any of the
            runs.
        left_out: number of images with an undefined score.
    """

    values: np.ndarray
    left_out: int

    @property
    def by_seed(self) -> np.ndarray:
        """(seeds,) means over the images."""
        return self.values.mean(axis=1) if self.values.size else np.empty(0)

    @property
    def by_image(self) -> np.ndarray:
        """(images,) means over the seeds."""
        return self.values.mean(axis=0) if self.values.size else np.empty(0)

    @property
    def mean(self) -> float:
        """Mean of all values; NaN without any."""
        return float(self.values.mean()) if self.values.size else float("nan")


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a mean, and the two-sided p of the mean being 0; NaN if unknown."""

    low: float
    high: float
    p: float


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


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
            f"{path} is missing; `kanseg evaluate --checkpoint {path.parent} --csv {path}`"
            " writes it"
        )
    with path.open(encoding="utf-8-sig", newline="") as stream:
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
    IoU for more; of a classifier whether the class is correct.
    """
    scores = json.loads((run / "metrics.json").read_text(encoding="utf-8")).get(split)
    if scores is None:
        raise InputError(
            f"{run} has no scores on {split}; give --split a split that the experiment measures"
        )
    if "top1" in scores:
        return CORRECT
    classes = list(scores["classes"])
    if len(classes) == 2:
        return f"{classes[1]}/iou"
    return "mean/iou"


def difference(variant: VariantScores, baseline: VariantScores) -> Difference:
    """Subtract the scores of the baseline from those of a variant, for the same images and seeds;
    without values if they have no common image or seed.

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
        return Difference(np.empty((0, 0)), left_out=len(variant.names))
    columns = [baseline.names.index(name) for name in variant.names]
    mine = [list(variant.runs).index(seed) for seed in seeds]
    theirs = [list(baseline.runs).index(seed) for seed in seeds]
    values = variant.images[mine] - baseline.images[theirs][:, columns]
    defined = ~np.isnan(values).any(axis=0)
    return Difference(values[:, defined], left_out=int((~defined).sum()))


def mean_interval(values: np.ndarray, tests: int = 1) -> Interval:
    """The t interval of the mean of a sample, and its p. Of paired differences this is the paired
    t test.

    Args:
        values: (n,) the sample.
        tests: number of means that are judged together. Bonferroni's correction makes all their
            intervals hold together with 95 %, and multiplies p by it.

    Returns:
        `UNKNOWN` for fewer than two values, whose spread is unknown.
    """
    if len(values) < 2:
        return UNKNOWN
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    return _t_interval(mean, error, len(values) - 1, tests)


def _t_interval(mean: float, error: float, freedom: float, tests: int = 1) -> Interval:
    """Interval and p of a mean with this standard error and these degrees of freedom."""
    if error == 0:  # the same value everywhere
        return Interval(mean, mean, float(mean == 0))
    from scipy.stats import t

    half = float(t.isf((1 - CONFIDENCE) / 2 / tests, freedom)) * error
    p = float(2 * t.sf(abs(mean) / error, freedom))
    return Interval(mean - half, mean + half, min(1.0, tests * p))


def crossed_interval(values: np.ndarray) -> Interval:
    """The interval of the mean of differences d[s, i] of seeds s and images i, for new seeds and
    new images, and its p.

    Seeds and images are both samples: d[s, i] = mean + a[s] + b[i] + e[s, i], a two-way crossed
    random model without replication. With n seeds, m images and the mean squares MS of its analysis
    of variance, the variance of the grand mean is estimated by

        (MS_seed + MS_image - MS_residual) / (n m),  at least max(MS_seed, MS_image) / (n m),

    with Satterthwaite's degrees of freedom for a t distribution.

    Args:
        values: (seeds, images), without NaN.

    Returns:
        `UNKNOWN` for one seed or one image, since their spread is unknown then.
    """
    n, m = values.shape
    if min(n, m) < 2:
        return UNKNOWN
    mean = float(values.mean())
    seeds, images = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    free = (n - 1, m - 1, (n - 1) * (m - 1))
    squares = (
        m * np.square(seeds - mean).sum() / free[0],
        n * np.square(images - mean).sum() / free[1],
        np.square(values - seeds - images + mean).sum() / free[2],
    )
    variance = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    own = sum(square**2 / each for square, each in zip(squares, free, strict=True))
    freedom = max(variance**2 / own, min(free)) if own else min(free)
    return _t_interval(mean, float(np.sqrt(variance / (n * m))), freedom)


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
    compared = difference_rows(differences)
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
        rows.append(row | compared.get(name, {}))
    return rows


def sample_deviation(values: np.ndarray) -> float:
    """Standard deviation of a sample; NaN for a single value."""
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1))


def difference_rows(differences: Mapping[str, Difference]) -> dict[str, dict[str, Any]]:
    """Name -> the difference to the baseline as entries of a row.

    over_seeds: the t interval over the means of the seeds, paired by seed, and its p; over_images:
    the t interval over the images of this test set, for these trained networks; both with
    Bonferroni's correction for the number of differences. over_both: `crossed_interval`, with
    Holm's correction of p. No p is given for fewer than three seeds, where it would be luck.
    """
    tests = max(1, sum(bool(found.values.size) for found in differences.values()))
    both = {name: crossed_interval(found.values) for name, found in differences.items()}
    corrected = holm([interval.p for interval in both.values()])
    rows = {}
    for (name, found), p in zip(differences.items(), corrected, strict=True):
        over_seeds = mean_interval(found.by_seed, tests)
        over_both = replace(both[name], p=float(p))
        if len(found.by_seed) < FEW_SEEDS:
            over_seeds = replace(over_seeds, p=float("nan"))
            over_both = replace(over_both, p=float("nan"))
        over_images = mean_interval(found.by_image, tests)
        rows[name] = {
            "difference": found.mean,
            "difference_by_seed": found.by_seed.tolist(),
            "over_seeds": vars(over_seeds),
            # p over images is left out: it says nothing about a training with another seed.
            "over_images": {"low": over_images.low, "high": over_images.high},
            "over_both": vars(over_both),
            "corrected_for": tests,
            "images": len(found.by_image),
            "left_out": found.left_out,
            "better_in": int((found.by_image > 0).sum()),
        }
    return rows


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
    """Difference, its interval and p over seeds, its interval over images, and the number of better
    images as text; empty for a baseline.
    """
    if "difference" not in row:
        return ["", "", "", "", ""]
    seeds = len(row["difference_by_seed"])
    if not seeds:
        return ["-", "no common seed or image", "-", "-", "-"]
    over_seeds = f"unknown ({seeds_text(seeds)})"
    if seeds > 1:
        over_seeds = f"{interval_cell(row['over_seeds'])} ({seeds_text(seeds)})"
    return [
        f"{row['difference']:+.4f}",
        over_seeds,
        p_cell(row["over_seeds"]["p"]),
        interval_cell(row["over_images"]),
        f"{row['better_in']} of {row['images']}",
    ]


def seeds_text(seeds: int) -> str:
    """The number of seeds in words that say whether it is too small."""
    if seeds == 1:
        return "1 seed"
    if seeds < FEW_SEEDS:
        return f"{seeds} seeds, too few"
    return f"{seeds} seeds"


def interval_cell(interval: Mapping[str, float]) -> str:
    """An interval as text; a dash if it is unknown."""
    if np.isnan(interval["low"]):
        return "-"
    return f"{interval['low']:+.4f} to {interval['high']:+.4f}"


def p_cell(p: float) -> str:
    """A p as text; a dash if it is unknown."""
    if np.isnan(p):
        return "-"
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.4f}"


def few_seeds_note(seeds: Mapping[str, int]) -> str | None:
    """Say what cannot be concluded from one or two seeds; None if there are three or more.

    Args:
        seeds: name of a difference -> number of its seeds.
    """
    one = [name for name, count in seeds.items() if count == 1]
    two = [name for name, count in seeds.items() if 1 < count < FEW_SEEDS]
    sentences = []
    if one:
        sentences.append(
            f"**One seed ({', '.join(one)}): nothing can be said about seeds.** Trained again with"
            " another seed, the difference may be the opposite. The interval over images is about"
            " these trained networks alone."
        )
    if two:
        sentences.append(
            f"**Two seeds ({', '.join(two)}): hardly anything can be said about seeds.** The"
            " interval over two values is very wide, and if it is not, that may be luck."
        )
    if not sentences:
        return None
    return " ".join([*sentences, "Train with at least three seeds; five are better."])
