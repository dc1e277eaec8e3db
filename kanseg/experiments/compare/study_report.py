"""Write the report of a study: table.md and two figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanseg.experiments.compare.statistics import few_seeds_note
from kanseg.experiments.compare.study import fitting_lines
from kanseg.experiments.compare.study_figures import draw_study
from kanseg.experiments.compare.study_file import Study
from kanseg.experiments.compare.study_results import study_rows
from kanseg.experiments.compare.study_tables import (
    cost_table,
    interval_table,
    score_names,
    study_table,
    tuning_table,
    wins,
)
from kanseg.experiments.compare.study_time import step_ratios
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text

NOTE = (
    "Score: mean ± standard deviation over the seeds of the mean over the test images. Minus"
    " reference: over the seeds that both have. 95 % over both: for new\nseeds and new images, both"
    " of which are samples (two-way crossed, Satterthwaite's t); the counts and the figures are of"
    " these intervals, each taken by itself.\np over both: corrected for the number of variants of"
    " the set (Holm), so that it can be above 0.05 where the interval does not contain zero. Images"
    " without\na score in any of the runs are left out. Reference none: no baseline with at least"
    " as much CPU time was run."
)
NOTE_INTERVALS = (
    "95 % over seeds, and its p: for trainings with other seeds, on these images (t interval of the"
    " differences of the seeds, paired by seed). 95 % over images:\nhow sure the difference is for"
    " images like these, with these trained networks; it says nothing about other seeds. Both are"
    " corrected for the number of\nvariants of a set (Bonferroni). better in: the number of images"
    " that are better, the seeds averaged."
)
NOTE_COSTS = (
    "step: CPU time of a training step relative to the baseline, measured in turns (median of the"
    " rounds ± half the interquartile range). CPU s: seconds of the runs'\ntraining, mean over the"
    " seeds; they also depend on what else the machine was doing at the time."
)


def write_study(
    study: Study,
    sets: Sequence[str],
    variants: Sequence[str],
    results: Path,
    *,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Write table.md and the figures from the lines of the finished runs, and return their paths.

    Args:
        study: the study.
        sets, variants: names to report.
        results: folder of the JSON lines, to which the report is written.
        log: called with the tables and the paths.

    Raises:
        InputError: no lines of this study yet, or damaged lines.
    """
    tuned, final, left_out = fitting_lines(study, sets, variants, results)
    for sentence in left_out:
        log(f"study: {sentence}")
    parts = [f"# Study: {study.path.stem}"]
    written = [results / "table.md"]
    steps = {name: step_ratios(study, name, results, log=log) for name in final}
    compared: dict[str, list[dict[str, Any]]] = {}
    for title, equal_time in (("Equal parameters", False), ("Equal CPU time", True)):
        rows = study_rows(
            final,
            baseline=study.baseline,
            longer=study.longer,
            equal_time=equal_time,
            steps=steps,
        )
        if equal_time:
            rows = [row for row in rows if row["against"]]
        if not rows:
            continue
        compared[title] = rows
        parts.append(f"## {title}")
        if any("difference" in row for row in rows):
            parts.append(wins(rows))
            path = results / f"{title.lower().replace(' ', '_')}.png"
            written.append(draw_study(rows, path, title=title))
            parts.append(f"![Differences and their intervals]({path.name})")
            few_seeds = few_seeds_note(_seeds_by_set(rows))
            if few_seeds is not None:
                parts.append(few_seeds)
        parts.append(study_table(rows))
    if final:
        parts += [NOTE, score_names(final), "## Other intervals"]
        for title, rows in compared.items():
            parts += [f"### {title}", interval_table(rows)]
        parts += [NOTE_INTERVALS, "## Costs", cost_table(compared["Equal parameters"]), NOTE_COSTS]
    if any(tuned.values()):
        parts += ["## Tuning", tuning_table(tuned, study.tuned[0])]
    if len(parts) == 1:
        raise InputError(f"{results}: no lines of these sets and variants yet")
    text = "\n\n".join(parts)
    atomic_write_text(results / "table.md", text + "\n")
    log(text)
    log(f"study: {', '.join(map(str, written))}")
    return written


def _seeds_by_set(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Set -> number of seeds of its differences; where they differ, "variant on set" -> number."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if "difference" in row:
            counts.setdefault(row["set"], {})[row["variant"]] = len(row["difference_by_seed"])
    seeds: dict[str, int] = {}
    for name, by_variant in counts.items():
        if len(set(by_variant.values())) == 1:
            seeds[name] = next(iter(by_variant.values()))
        else:
            seeds |= {f"{variant} on {name}": count for variant, count in by_variant.items()}
    return seeds
