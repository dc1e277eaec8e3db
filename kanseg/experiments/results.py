"""Finished runs -> a table: score, size and time of every experiment, runs that differ in their
seed only in one row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json, read_yaml
from kanseg.utils.tables import markdown_table

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


def results_page(folders: Sequence[str], *, published: str | None, command: str) -> str:
    """The page, in Markdown.

    Args:
        folders: of runs; those that are no finished classification run are left out.
        published: a YAML file, a list of {experiment, published, config, gpu}; an experiment is the
            stem of a config.
        command: that made the page.

    Raises:
        InputError: no finished run, or a published file that is no such list.
    """
    rows = read_published(published)
    runs = [run for folder in folders if (run := read_run(Path(folder))) is not None]
    if not runs:
        raise InputError(
            "no finished run (a folder with config.yaml and metrics.json) among"
            f" {', '.join(folders[:5])}"
        )
    cells: list[tuple[str, ...]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["key"], []).append(run)
    order = {row["experiment"]: i for i, row in enumerate(rows)}
    for group in sorted(
        groups.values(),
        key=lambda g: (
            order.get(g[0]["experiment"], len(order)),
            g[0]["experiment"],
            g[0]["basis"] == "none",
        ),
    ):
        cells.append(
            _row(
                group,
                next((row for row in rows if row["experiment"] == group[0]["experiment"]), {}),
            )
        )
    seen = {run["experiment"] for run in runs}
    for row in rows:
        if row["experiment"] not in seen:
            cells.append(
                (row["experiment"], "", "", "", "", "", "", "not run here", str(row["published"]))
            )
    notes = [f"- `{row['experiment']}`: {row['note']}" for row in rows if row.get("note")]
    return "\n".join(
        [
            "# Classification: what was measured",
            "",
            (
                f"Written by `{command}` from the runs' `metrics.json`. Mean ± standard deviation"
                " over the seeds of the best weights by validation,"
            ),
            (
                "on the test split. `basis` none is the plain control (see its parameters)."
                " Multiply-adds are of one image, those of the"
            ),
            (
                "functions included; CPU seconds are of the whole run, reading and measuring"
                " included, on one thread of a shared machine."
            ),
            "",
            markdown_table(HEADERS, cells, text_columns=3),
            "",
            *notes,
            "",
        ]
    )


def read_published(path: str | None) -> list[dict[str, Any]]:
    """The rows to compare with."""
    if path is None:
        return []
    try:
        rows = read_yaml(Path(path))
    except (OSError, InputError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(rows, list) or any(
        not isinstance(row, dict) or not {"experiment", "published"} <= row.keys() for row in rows
    ):
        raise InputError(f"{path}: expected a list of rows with experiment and published")
    return rows


def read_run(folder: Path) -> dict[str, Any] | None:
    """What a row needs of a finished classification run; None for a folder that holds none."""
    if not (folder / "metrics.json").is_file() or not (folder / "config.yaml").is_file():
        return None
    try:
        metrics = read_json(folder / "metrics.json")
        config = read_yaml(folder / "config.yaml")
        if "top1" not in metrics.get("test", {}):
            return None
        (
            config["model"]["name"],
            config["model"]["basis"],
            config["seed"],
            metrics["parameters"],
            metrics["multiply_adds"],
            metrics["cpu_seconds"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}: its metrics.json or config.yaml is damaged ({type(error).__name__}:"
            f" {error}); leave the folder out"
        ) from None
    kept = {key: value for key, value in config.items() if key not in ("run_dir", "seed")}
    return {
        "experiment": folder.name.split("-")[0],
        "key": json.dumps([folder.name.split("-")[0], kept], sort_keys=True),
        "network": config["model"]["name"],
        "basis": config["model"]["basis"],
        "seed": config["seed"],
        "metrics": metrics,
    }


def _row(group: Iterable[dict[str, Any]], published: dict[str, Any]) -> tuple[str, ...]:
    group = list(group)
    first, metrics = group[0], [run["metrics"] for run in group]
    scores = [100 * m["test"]["top1"] for m in metrics]
    spread = f" ± {stdev(scores):.2f}" if len(scores) > 1 else ""
    seconds = mean(m["cpu_seconds"] for m in metrics)
    return (
        first["experiment"],
        first["network"],
        first["basis"],
        f"{metrics[0]['parameters']:,}",
        f"{metrics[0]['multiply_adds']:,}",
        f"{seconds:.0f}",
        str(len(group)),
        f"{mean(scores):.2f}{spread}",
        str(published.get("published", "")) if first["basis"] != "none" else "",
    )
