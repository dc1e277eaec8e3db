"""The tables of a study's report, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from kanseg.experiments.compare.statistics import (
    FEW_SEEDS,
    difference_cells,
    interval_cell,
    mean_cell,
    p_cell,
)
from kanseg.experiments.compare.study_results import best_line
from kanseg.utils.tables import markdown_table

HEADERS = (
    "set",
    "variant",
    "score",
    "reference",
    "minus reference",
    "95 % over both",
    "p over both",
    "seeds",
)
INTERVAL_HEADERS = (
    "set",
    "variant",
    "95 % over seeds",
    "p over seeds",
    "95 % over images",
    "better in",
)
COST_HEADERS = ("set", "variant", "parameters", "multiply-adds", "step", "CPU s")


def study_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format scores and differences as a Markdown table."""
    lines = []
    for row in rows:
        seeds = str(len(row["seeds"]))
        if row["diverged"]:
            seeds += f" ({row['diverged']} diverged)"
        compared = ["", "", ""]
        if "difference" in row:
            both = row["over_both"]
            compared = [difference_cells(row)[0], interval_cell(both), p_cell(both["p"])]
        start = [row["set"], row["variant"], mean_cell(row), row["against"]]
        lines.append([*start, *compared, seeds])
    return markdown_table(HEADERS, lines, text_columns=2)


def interval_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the other intervals of the differences as a Markdown table."""
    lines = []
    for row in rows:
        if "difference" in row:
            lines.append([row["set"], row["variant"], *difference_cells(row)[1:]])
    return markdown_table(INTERVAL_HEADERS, lines, text_columns=2)


def cost_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format sizes and times as a Markdown table."""
    lines = []
    for row in rows:
        sizes = [_thousands(row["parameters"]), _thousands(row["multiply_adds"])]
        step = "" if row["step"] is None else str(row["step"])
        lines.append([row["set"], row["variant"], *sizes, step, f"{row['cpu_seconds']:.0f}"])
    return markdown_table(COST_HEADERS, lines, text_columns=2)


def _thousands(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def wins(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count for each variant on how many sets it is ahead of its reference or behind it, and how
    often the interval over both seeds and images is. With fewer than three seeds no interval
    counts.
    """
    headers = ("variant", "sets", "ahead", "interval above 0", "behind", "interval below 0")
    counts: dict[str, np.ndarray] = {}
    for row in rows:
        if "difference" in row:
            mean, both = row["difference"], row["over_both"]
            low, high = both["low"], both["high"]
            if len(row["difference_by_seed"]) < FEW_SEEDS:
                low = high = float("nan")
            outcome = np.array([1, mean > 0, low > 0, mean < 0, high < 0], dtype=int)
            counts[row["variant"]] = counts.get(row["variant"], 0) + outcome
    table = [[name, *map(str, numbers.tolist())] for name, numbers in counts.items()]
    return markdown_table(headers, table)


def tuning_table(sets: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> str:
    """Format the validation scores of the tuning: a row for each run; the best run of each variant
    is marked.

    Args:
        sets: set -> lines of the stage "tune".
        key: the setting that was tuned.
    """
    rows = []
    for set_name, lines in sets.items():
        chosen = []
        for variant in dict.fromkeys(line["variant"] for line in lines):
            runs = [line for line in lines if line["variant"] == variant]
            if any(line["mean"] is not None for line in runs):
                chosen.append(runs[best_line(runs)])
        for line in lines:
            cells = [
                set_name,
                line["variant"],
                str(line["overrides"].get(key, "")),
                str(line["score"]),
            ]
            if line["mean"] is None:
                cells += ["diverged", "", ""]
            else:
                mark = "best" if any(line is each for each in chosen) else ""
                cells += [f"{line['mean']:.4f}", f"{line['cpu_seconds']:.0f}", mark]
            rows.append(cells)
    header = ("set", "variant", key, "score", "validation", "CPU s", "")
    return markdown_table(header, rows, text_columns=2)


def score_names(sets: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]) -> str:
    """The name of each set's score, as a sentence."""
    names = []
    for set_name, variants in sets.items():
        lines = chain.from_iterable(runs.values() for runs in variants.values())
        score = next((line["score"] for line in lines if line["score"]), None)
        names.append(f"{set_name} {score}")
    return f"Scores: {', '.join(names)}."
