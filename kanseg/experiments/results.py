"""Write a table of finished runs: score, size and time of every experiment. Runs that differ only
in their seed share a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json, read_yaml
from kanseg.utils.tables import markdown_table
from kanseg.utils.text import one_line

KEYS = {"experiment", "published"}  # of a published row
HEADERS = (
    "experiment",
    "network",
    "basis",
    "parameters",
    "multiply-adds",
    "CPU s",
    "seeds",
    "test top-1 %",
    "published %",
)

TEXT = """# Classification: results

Written by `{command}` from the runs' `metrics.json`. Mean ± standard deviation over the seeds, with
the best weights by validation, on the test split. `basis` none is the baseline of plain
convolutions (see its parameters). Multiply-adds are those of one image, including the functions;
CPU seconds are those of the whole run, including reading and measuring, on one thread of a shared
machine.
"""


def results_page(folders: Sequence[str], *, published: str | None, command: str) -> str:
    """Write the page in Markdown.

    Args:
        folders: run folders; those without a finished classification run are left out.
        published: a YAML file, a list of {experiment, published, config, gpu}; an experiment is the
            stem of a config.
        command: the command that writes the page, quoted in its text.

    Raises:
        InputError: no finished run, or a published file that is not such a list.
    """
    references = {row["experiment"]: row for row in read_published(published)}
    groups: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        run = read_run(Path(folder))
        if run is not None:
            groups.setdefault(run["key"], []).append(run)
    if not groups:
        raise InputError(
            "no finished run (a folder with config.yaml and metrics.json) among"
            f" {', '.join(folders[:5])}"
        )
    order = list(references)

    def position(group: list[dict[str, Any]]) -> tuple[int, str, bool]:
        name = group[0]["experiment"]
        index = order.index(name) if name in references else len(order)
        return index, name, group[0]["basis"] == "none"

    rows = []
    measured = set()
    for group in sorted(groups.values(), key=position):
        name = group[0]["experiment"]
        rows.append(_row(group, references.get(name, {})))
        measured.add(name)
    for name, reference in references.items():
        if name not in measured:
            empty = [""] * (len(HEADERS) - 3)
            rows.append((name, *empty, "not run here", str(reference["published"])))
    notes = []
    for name, reference in references.items():
        if reference.get("note"):
            notes.append(f"- `{name}`: {reference['note']}")
    table = markdown_table(HEADERS, rows, text_columns=3)
    return "\n".join([TEXT.format(command=command), table, "", *notes, ""])


def read_published(path: str | None) -> list[dict[str, Any]]:
    """Read the published rows; an empty list without a file."""
    if path is None:
        return []
    try:
        rows = read_yaml(Path(path))
    except (OSError, InputError) as error:
        raise InputError(f"{path}: {one_line(error, None)}") from None
    if isinstance(rows, list) and all(isinstance(row, dict) and row.keys() >= KEYS for row in rows):
        return rows
    raise InputError(f"{path}: expected a list of rows with experiment and published")


def read_run(folder: Path) -> dict[str, Any] | None:
    """Settings and metrics of a finished classification run; None if the folder has none."""
    if not (folder / "metrics.json").is_file() or not (folder / "config.yaml").is_file():
        return None
    try:
        metrics = read_json(folder / "metrics.json")
        config = read_yaml(folder / "config.yaml")
        if "top1" not in metrics.get("test", {}):
            return None
        for key in ("parameters", "multiply_adds", "cpu_seconds"):
            metrics[key]
        model, seed = config["model"], config["seed"]
        network, basis = model["name"], model["basis"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}: its metrics.json or config.yaml is damaged ({type(error).__name__}:"
            f" {error}); leave the folder out"
        ) from None
    experiment = folder.name.split("-")[0]
    shared = dict(config)
    shared.pop("run_dir", None)
    shared.pop("seed", None)
    return {
        "experiment": experiment,
        "key": json.dumps([experiment, shared], sort_keys=True),
        "network": network,
        "basis": basis,
        "seed": seed,
        "metrics": metrics,
    }


def _row(group: Sequence[dict[str, Any]], published: dict[str, Any]) -> tuple[str, ...]:
    first = group[0]
    scores, seconds = [], []
    for run in group:
        scores.append(100 * run["metrics"]["test"]["top1"])
        seconds.append(run["metrics"]["cpu_seconds"])
    score = f"{mean(scores):.2f}"
    if len(scores) > 1:
        score += f" ± {stdev(scores):.2f}"
    reference = ""
    if first["basis"] != "none":  # the published score is that of the KAN, not of the baseline
        reference = str(published.get("published", ""))
    return (
        first["experiment"],
        first["network"],
        first["basis"],
        f"{first['metrics']['parameters']:,}",
        f"{first['metrics']['multiply_adds']:,}",
        f"{mean(seconds):.0f}",
        str(len(group)),
        score,
        reference,
    )
