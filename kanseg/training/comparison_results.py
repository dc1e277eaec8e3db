"""Finished runs of a comparison -> who is better, by how much, and whether that may be luck."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.errors import InputError
from kanseg.names import safe_cell
from kanseg.registry import nearest
from kanseg.tables import markdown

DRAWS = 10_000  # of the bootstrap
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
        pictures: (seeds, pictures) score of each test picture, NaN where it is undefined.
        names: of the pictures.
    """

    runs: Mapping[int, Mapping[str, Any]]
    pictures: np.ndarray
    names: tuple[str, ...]

    @property
    def by_seed(self) -> np.ndarray:
        """(seeds,) mean over the pictures."""
        return np.nanmean(self.pictures, axis=1)

    @property
    def by_picture(self) -> np.ndarray:
        """(pictures,) mean over the seeds; NaN where one of them is."""
        return self.pictures.mean(axis=0)


@dataclass(frozen=True)
class Difference:
    """An arm minus the control, picture by picture.

    Args:
        values: (pictures,) differences of the means over seeds, without pictures whose score is
            undefined in one of the two.
        mean: of them.
        low, high: 95 % bootstrap interval of the mean.
        p: of Wilcoxon's signed-rank test, two-sided.
    """

    values: np.ndarray
    mean: float
    low: float
    high: float
    p: float


def read_arm(runs: Mapping[int, Path], split: str, score: str) -> ArmScores:
    """The scores of an arm's runs.

    Args:
        runs: seed -> run folder.
        split: "val" or "test".
        score: a column of the runs' scores_SPLIT.csv.

    Raises:
        InputError: a run without that table or column.
    """
    tables = {seed: read_pictures(run / f"scores_{split}.csv", score) for seed, run in runs.items()}
    names = next(iter(tables.values())).keys()
    for seed, table in tables.items():
        if table.keys() != names:
            raise InputError(
                f"{runs[seed]}: its scores_{split}.csv is of other pictures than those of the other"
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


def read_pictures(path: Path, score: str) -> dict[str, float]:
    """Name of a picture -> its score, of a table that a run wrote."""
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


def difference(arm: ArmScores, control: ArmScores, *, seed: int = 0) -> Difference:
    """An arm minus the control on the same pictures; NaN throughout where no picture is left.

    The pictures are the sample: seeds are averaged first, since runs on the same pictures are not
    independent.

    Args:
        arm, control: of the same pictures.
        seed: of the bootstrap.

    Raises:
        InputError: other pictures.
    """
    if arm.names != control.names:
        raise InputError(
            "the arms were tested on different pictures, so that nothing can be compared picture by"
            " picture"
        )
    values = arm.by_picture - control.by_picture
    values = values[~np.isnan(values)]
    if not len(values):
        return Difference(values, *[float("nan")] * 4)
    from scipy.stats import wilcoxon

    draws = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    p = float(wilcoxon(values).pvalue) if np.any(values) else 1.0
    return Difference(values, float(values.mean()), float(low), float(high), p)


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number (Holm 1979): as many tests as there are arms make a small
    p more likely by chance.
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
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
                "pictures": len(found.values),
            }
            row |= {"better_in": int((found.values > 0).sum())}
        rows.append(row)
    return rows


def comparison_table(rows: Sequence[Mapping[str, Any]], *, score: str) -> str:
    """The rows in Markdown."""
    names = {"score": score, "control": rows[0]["arm"]}
    return markdown([header.format(**names) for header in HEADERS], [_cells(row) for row in rows])


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
        _p(row["p"]),
        f"{row['better_in']} of {row['pictures']}",
    ]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
