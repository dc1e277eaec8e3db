"""The command line of a study."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from kanseg.experiments.compare.study import (
    Study,
    chosen_names,
    final_jobs,
    read_study,
    run_jobs,
    tuning_jobs,
)
from kanseg.experiments.compare.study_results import (
    STAGES,
    by_variant,
    read_lines,
    results_file,
    score_lines,
    study_rows,
    study_table,
    tuning_table,
    wins,
)
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text

NOTE = (
    "Mean ± standard deviation over the seeds of the mean over the test images; CPU seconds of"
    " training alone. Difference to the reference with its 95 %\ninterval and p (Holm's correction"
    " for the number of variants of a set): for new seeds and new images, both of which are samples"
    " (two-way crossed,\nSatterthwaite's t). better in: the number of images that are better, the"
    " seeds averaged. Images without a score in any of the runs are left out."
)


def study_command(argv: Sequence[str], *, description: str) -> int:
    """Run or report the study that a command line names.

    Returns:
        The exit code: 1 where runs of the final stage had to be left out, since their tuning is not
        complete.

    Raises:
        InputError: a study, names or data that cannot be used.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--study", type=Path, required=True, help="YAML file of the study")
    parser.add_argument("--stage", choices=tuple(STAGES), help="what is run")
    parser.add_argument(
        "--report",
        action="store_true",
        help="write RESULTS/table.md and RESULTS/study.png of the lines that are there",
    )
    parser.add_argument("--sets", help="comma-separated (default: all)")
    parser.add_argument("--variants", help="comma-separated (default: all)")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("data"),
        help="folder that the study's data.root are relative to (default: data)",
    )
    parser.add_argument("--output", type=Path, help="folder for the runs")
    parser.add_argument(
        "--results",
        type=Path,
        required=True,
        help="folder of the JSON lines, STAGE/SET.jsonl: one for each finished run",
    )
    parser.add_argument(
        "--discard-runs",
        action="store_true",
        help="delete the folder of a run once its line is written",
    )
    arguments = parser.parse_args(argv)
    if arguments.stage is None and not arguments.report:
        raise InputError("give --stage tune, --stage final or --report")
    if arguments.stage is not None and arguments.output is None:
        raise InputError("--stage needs --output, a folder for the runs")
    study = read_study(arguments.study)
    sets = chosen_names(arguments.sets, list(study.sets), "--sets")
    variants = chosen_names(arguments.variants, [*study.variants, *study.longer], "--variants")
    status = 0
    if arguments.stage is not None:
        status = _run_stage(study, sets, variants, arguments)
    if arguments.report:
        write_report(study, sets, variants, arguments.results)
    return status


def _run_stage(
    study: Study, sets: Sequence[str], variants: Sequence[str], arguments: argparse.Namespace
) -> int:
    folders = {"data_root": arguments.data_root, "output": arguments.output}
    untuned: list[str] = []
    if arguments.stage == "tune":
        jobs = tuning_jobs(study, sets, variants, **folders)
    else:
        jobs, untuned = final_jobs(study, sets, variants, arguments.results, **folders)
    run_jobs(
        jobs,
        output=arguments.output,
        results=arguments.results,
        discard=arguments.discard_runs,
        log=_log,
    )
    for name in untuned:
        _log(f"study: {name}: left out, its tuning is not complete; run --stage tune first")
    return 1 if untuned else 0


def write_report(
    study: Study,
    sets: Sequence[str],
    variants: Sequence[str],
    results: Path,
    *,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Tables and figure of the JSON lines."""
    from kanseg.experiments.compare.study_figures import draw_study

    tuned, final = {}, {}
    for name in sets:
        lines = read_lines(results_file(results, "tune", name))
        tuned[name] = [line for line in lines if line["variant"] in variants]
        path = results_file(results, "final", name)
        lines = [line for line in read_lines(path) if line["variant"] in variants]
        if lines:
            found = by_variant(lines, where=path, log=log)
            final[name] = {variant: found[variant] for variant in variants if variant in found}
    parts = []
    written = []
    names = {"baseline": study.baseline, "longer": list(study.longer)}
    for title, equal_time in (("Equal parameters", False), ("Equal CPU time", True)):
        rows = study_rows(final, **names, equal_time=equal_time)
        if equal_time:
            rows = [row for row in rows if row["against"]]
        if rows:
            parts += [f"## {title}", study_table(rows)]
        compared = [row for row in rows if "difference" in row]
        if compared:
            parts.append(wins(rows))
            path = results / f"{title.lower().replace(' ', '_')}.png"
            written.append(draw_study(rows, path, title=title))
    if final:
        parts += [NOTE, score_lines(final)]
    if any(tuned.values()):
        parts += ["## Tuning", tuning_table(tuned, study.tuned[0])]
    if not parts:
        raise InputError(f"{results}: no lines of these sets and variants yet")
    text = "\n\n".join(parts)
    atomic_write_text(results / "table.md", text + "\n")
    log(text)
    written.insert(0, results / "table.md")
    log(f"study: {', '.join(map(str, written))}")
    return written


def _log(line: str) -> None:
    print(line, flush=True)
