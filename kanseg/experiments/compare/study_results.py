"""Write, read and compare the JSON lines of a study."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import kanseg
from kanseg.benchmark.measure import Ratio
from kanseg.experiments.compare.statistics import (
    CORRECT,
    VariantScores,
    default_score,
    difference,
    difference_rows,
    read_images,
    sample_deviation,
)
from kanseg.training.run_folder.logging import plain
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json_lines

NO_REFERENCE = "none"  # shown if no baseline is comparable
STAGES = {"tune": "val", "final": "test"}  # stage -> the split of its scores
FIELDS = ("set", "variant", "seed", "settings", "settings_hash", "split", "score", "mean")


def results_file(results: Path, stage: str, set_name: str) -> Path:
    """The file with the lines of a stage on a data set."""
    return results / stage / f"{set_name}.jsonl"


def run_line(run: Path, split: str) -> dict[str, Any]:
    """Scores and costs of a finished run, for its line."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    score = default_score(run, split)
    images = read_images(run / f"scores_{split}.csv", score)
    if not np.isfinite(list(images.values())).any():
        raise InputError(f"{run}: {score} is undefined on every image of {split}")
    mean = float(np.nanmean(list(images.values())))
    return plain(
        {
            "split": split,
            "score": score,
            "mean": round(mean, 6),
            "parameters": metrics["parameters"],
            "multiply_adds": metrics["multiply_adds"],
            "cpu_seconds": metrics["training_cpu_seconds"],
            "epochs": metrics["epochs"],
            # "machine" in runs of earlier versions
            "environment": metrics.get("environment", metrics.get("machine")),
            "images": _stored_images(images, score),
        }
    )


def _stored_images(images: Mapping[str, float], score: str) -> dict[str, float] | list[int]:
    """The scores of a line by image; of a classifier, whose test sets are large, 0 or 1 for each
    image in their order.
    """
    if score == CORRECT:
        return [int(value) for value in images.values()]
    return {name: round(value, 5) for name, value in images.items()}


def images_of(line: Mapping[str, Any]) -> dict[str, float]:
    """Name of an image -> its score in a line; images without a name are numbered."""
    if isinstance(line["images"], list):
        return {str(number): value for number, value in enumerate(line["images"])}
    return line["images"]


def code_version() -> dict[str, Any]:
    """Version of kanseg, and its commit if it runs from a checkout ("-dirty" if files changed)."""
    package = Path(kanseg.__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        tracked = git("ls-files", "__init__.py")
        commit = git("rev-parse", "HEAD") if tracked else None
        if commit is not None and git("status", "--porcelain", "--", "."):
            commit += "-dirty"
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {"kanseg": kanseg.__version__, "commit": commit}


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a JSON line with a single write, so that several processes can append at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (json.dumps(line, allow_nan=False) + "\n").encode()
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        data = b"\n" + data  # keeps a truncated line separate, which readers report
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path}: the line was not written completely; is the disk full?")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; an empty list without a file.

    Raises:
        InputError: a damaged line.
    """
    if not path.is_file():
        return []
    fields = dict.fromkeys(FIELDS, object)
    return read_json_lines(path, fields, hint="delete it, and the run is repeated")


def best_line(lines: Sequence[Mapping[str, Any]]) -> int:
    """Index of the line with the highest score, the first of equal ones. Runs that diverged do not
    count.
    """
    scored = [index for index, line in enumerate(lines) if line["mean"] is not None]
    return max(scored, key=lambda index: lines[index]["mean"])


def variant_scores(runs: Mapping[int, Mapping[str, Any]], *, where: str) -> VariantScores:
    """The scores of a variant's runs, image by image; NaN for runs that diverged.

    Raises:
        InputError: runs on different images, or of different scores.
    """
    finished = _finished(runs)
    names = tuple(images_of(finished[0])) if finished else ()
    table = np.full((len(runs), len(names)), np.nan)
    for row, line in zip(table, runs.values(), strict=True):
        if line["mean"] is None:
            continue
        images = images_of(line)
        if images.keys() != set(names) or line["score"] != finished[0]["score"]:
            raise InputError(f"{where}: the runs were measured on different images or scores")
        row[:] = np.array([images[name] for name in names], dtype=float)  # null: NaN
    return VariantScores(runs, table, names)


def equal_time_reference(cost: float, costs: Mapping[str, float]) -> str | None:
    """The baseline to compare with at equal CPU time: the fastest one that takes at least as long
    as the variant. None if there is none.

    Args:
        cost: of the variant.
        costs: name -> cost of the baselines.
    """
    slower = {name: seconds for name, seconds in costs.items() if seconds >= cost}
    return min(slower, key=slower.__getitem__, default=None)


def mean_cost(runs: Mapping[int, Mapping[str, Any]]) -> float:
    """CPU seconds of training, mean over the runs that did not diverge."""
    seconds = [line["cpu_seconds"] for line in _finished(runs)]
    if not seconds:
        return float("nan")
    return float(np.mean(seconds))


def relative_cost(
    name: str,
    variants: Mapping[str, Mapping[int, Mapping[str, Any]]],
    baseline: str,
    steps: Mapping[str, Ratio],
) -> float:
    """CPU time of a variant relative to the baseline: that of a training step if it was measured,
    else that of the runs. NaN if the baseline's runs were too short for the clock.
    """
    if name in steps:
        return steps[name].median
    seconds = mean_cost(variants.get(baseline, {}))
    return mean_cost(variants[name]) / (seconds or float("nan"))


def _mean_epochs(runs: Mapping[int, Mapping[str, Any]]) -> float:
    epochs = [line["epochs"] for line in _finished(runs)]
    return float(np.mean(epochs)) if epochs else float("nan")


def _finished(runs: Mapping[int, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of the runs that did not diverge."""
    return [line for line in runs.values() if line["mean"] is not None]


def study_rows(
    sets: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]],
    *,
    baseline: str,
    longer: Mapping[str, tuple[str, float]],
    equal_time: bool,
    steps: Mapping[str, Mapping[str, Ratio]] = {},
) -> list[dict[str, Any]]:
    """Make a row for each set and variant, with the difference to the baseline.

    Args:
        sets: set -> variant -> seed -> line.
        baseline: the variant that the others are compared with.
        longer: name -> (variant, factor on its epochs). Such a variant is compared with the
            baseline of the same factor.
        equal_time: compare with the `equal_time_reference` instead, and leave longer variants out.
        steps: set -> variant -> CPU time of a training step relative to the baseline, measured in
            turns. Without it the CPU seconds of the runs are compared, which also depend on what
            else the machine was doing at their time.
    """
    factors = {baseline: 1.0}
    for name, (variant, factor) in longer.items():
        if variant == baseline:
            factors[name] = factor
    as_long = {factor: name for name, factor in factors.items()}
    rows = []
    for set_name, variants in sets.items():
        scores = {}
        for name, runs in variants.items():
            scores[name] = variant_scores(runs, where=f"{set_name}, {name}")
        references = [name for name in factors if name in variants]
        others = [name for name in variants if name not in references]
        epochs = {name: _mean_epochs(variants[name]) for name in references}
        costs = {name: count / epochs.get(baseline, count) for name, count in epochs.items()}
        if equal_time:
            others = [name for name in others if name not in longer]
        against = {}
        differences = {}
        for name in others:
            _, factor = longer.get(name, (name, 1.0))
            reference = as_long.get(factor)
            if equal_time:
                cost = relative_cost(name, variants, baseline, steps.get(set_name, {}))
                reference = equal_time_reference(cost, costs)
            against[name] = NO_REFERENCE
            if reference in variants:
                against[name] = reference
                differences[name] = difference(scores[name], scores[reference])
        compared = difference_rows(differences)
        for name in [*references, *others]:
            row = _row(set_name, name, variants[name], scores[name])
            row["step"] = steps.get(set_name, {}).get(name)
            row["against"] = against.get(name, "")  # empty for a reference itself
            rows.append(row | compared.get(name, {}))
    return rows


def _row(
    set_name: str, name: str, runs: Mapping[int, Mapping[str, Any]], scores: VariantScores
) -> dict[str, Any]:
    finished = _finished(runs)
    first = next(iter(finished), {})
    means = scores.by_seed
    mean = float("nan")  # if a seed diverged
    if len(finished) == len(runs):
        mean = float(means.mean())
    return {
        "set": set_name,
        "variant": name,
        "parameters": first.get("parameters"),
        "multiply_adds": first.get("multiply_adds"),
        "cpu_seconds": mean_cost(runs),
        "seeds": list(runs),
        "diverged": len(runs) - len(finished),
        "score": first.get("score"),
        "mean": mean,
        "std": sample_deviation(means),
    }
