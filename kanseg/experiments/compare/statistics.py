"""Finished runs of a comparison -> who is better, by how much, and whether that may be luck."""

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
    "arm",
    "parameters",
    "multiply-adds",
    "CPU s",
    "seeds",
    "{score}",
    "minus {control}",
    "95 % interval",
    "p",
    "better in",
)


@dataclass(frozen=True)
class ArmScores:
    """What the runs of an arm measured.

    Args:
        runs: seed -> what its metrics.json holds.
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
    """An arm minus the control, image by image.

    Args:
        values: (images,) differences of the means over the common seeds, without images whose score
            is undefined in any of the runs.
        mean: of them.
        low, high: 95 % interval of the mean for new seeds and new images.
        p: two-sided, of the same t distribution.
        left_out: number of images that are left out.
    """

    values: np.ndarray
    mean: float
    low: float
    high: float
    p: float
    left_out: int


def read_arm(runs: Mapping[int, Path], split: str, score: str) -> ArmScores:
    """The scores of an arm's runs.

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
                f"{runs[seed]}: its scores_{split}.csv is of other images than those of the other"
                " seeds"
            )
    metrics = {
        seed: json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        for seed, run in runs.items()
    }
    return ArmScores(
        metrics,
        np.array([[table[name] for name in names] for table in tables.values()]),
        tuple(names),
    )


def read_images(path: Path, score: str) -> dict[str, float]:
    """Name of an image -> its score, of a table that a run wrote."""
    if not path.is_file():
        raise InputError(
            f"{path} is missing; `python tools/evaluate.py --checkpoint {path.parent} --csv {path}`"
            " writes it"
        )
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = [key for key in (rows[0] if rows else {}) if key != "name"]
    column = safe_cell(score)  # as it is written
    if column not in columns:
        raise InputError(
            f"{path}: no score {score!r}{nearest(score, columns)} (there are: {', '.join(columns)})"
        )
    return {row["name"]: float(row[column]) if row[column] else float("nan") for row in rows}


def default_score(run: Path, split: str) -> str:
    """IoU of the foreground where there are two classes, else the mean over the classes."""
    scores = json.loads((run / "metrics.json").read_text(encoding="utf-8")).get(split)
    if scores is None:
        raise InputError(
            f"{run} has no scores on {split}; name a split that the experiment measures with"
            " --split"
        )
    labels = list(scores["classes"])
    return f"{labels[1]}/iou" if len(labels) == 2 else "mean/iou"


def difference(arm: ArmScores, control: ArmScores) -> Difference:
    """An arm minus the control on the same images with the same seeds; NaN where no image or no
    common seed is left.

    Args:
        arm, control: of the same images.

    Raises:
        InputError: other images.
    """
    if arm.images.size and control.images.size and set(arm.names) != set(control.names):
        raise InputError(
            "the arms were tested on different images, so that nothing can be compared image by"
            " image"
        )
    order = {name: column for column, name in enumerate(control.names)}
    columns = [order[name] for name in arm.names if name in order]
    places = {seed: row for row, seed in enumerate(control.runs)}
    pairs = [(row, places[seed]) for row, seed in enumerate(arm.runs) if seed in places]
    if not pairs or not columns or not arm.images.size:
        return Difference(np.empty(0), *[float("nan")] * 4, left_out=len(arm.names))
    mine, theirs = (list(rows) for rows in zip(*pairs, strict=True))
    values = arm.images[mine] - control.images[theirs][:, columns]
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
    """p-values corrected for their number (Holm 1979): as many tests as there are arms make a small
    p more likely by chance. NaN is no test and stays NaN.
    """
    p = np.asarray(p, dtype=float)
    corrected = np.full_like(p, np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN comes last
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def comparison_rows(arms: Mapping[str, ArmScores], control: str) -> list[dict[str, Any]]:
    """A row for each arm, the control first: size, cost, mean and standard deviation over seeds,
    and the difference to the control.
    """
    others = [name for name in arms if name != control]
    differences = {name: difference(arms[name], arms[control]) for name in others}
    corrected = dict(zip(others, holm([differences[name].p for name in others]), strict=True))
    rows = []
    for name in [control, *others]:
        arm = arms[name]
        first = next(iter(arm.runs.values()))
        row: dict[str, Any] = {
            "arm": name,
            "parameters": first["parameters"],
            "multiply_adds": first["multiply_adds"],
            "seeds": list(arm.runs),
        }
        row |= {
            "cpu_seconds": float(np.mean([run["cpu_seconds"] for run in arm.runs.values()])),
            "by_seed": arm.by_seed.tolist(),
        }
        row |= {
            "mean": float(arm.by_seed.mean()),
            "std": float(arm.by_seed.std(ddof=1)) if len(arm.runs) > 1 else float("nan"),
        }
        if name in differences:
            found = differences[name]
            row |= {
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "p": float(corrected[name]),
                "images": len(found.values),
                "left_out": found.left_out,
                "better_in": int((found.values > 0).sum()),
            }
        rows.append(row)
    return rows


def comparison_table(rows: Sequence[Mapping[str, Any]], *, score: str) -> str:
    """The rows in Markdown."""
    names = {"score": score, "control": rows[0]["arm"]}
    return markdown_table(
        [header.format(**names) for header in HEADERS], [_cells(row) for row in rows]
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    spread = "" if np.isnan(row["std"]) else f" ± {row['std']:.4f}"
    cells = [
        row["arm"],
        f"{row['parameters']:,}",
        f"{row['multiply_adds']:,}",
        f"{row['cpu_seconds']:.0f}",
        str(len(row["seeds"])),
        f"{row['mean']:.4f}{spread}",
    ]
    if "difference" not in row:
        return [*cells, "", "", "", ""]
    interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
    return [
        *cells,
        f"{row['difference']:+.4f}",
        interval,
        p_text(row["p"]),
        f"{row['better_in']} of {row['images']}",
    ]


def p_text(value: float) -> str:
    """A p-value for a table."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
