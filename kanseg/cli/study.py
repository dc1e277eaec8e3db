"""Run or report a study on several data sets: variants are tuned on validation, then tested once
(docs/study.md):

kanseg compare --study configs/studies/shared_functions.yaml --stage tune --output
runs/study --results docs/results/shared_functions

The same command continues after an interruption; started several times, the processes share the
runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanseg.config.arguments import ToolParser, integers
from kanseg.utils.errors import InputError

STAGES = {
    "tune": ("tune",),
    "final": ("final",),
    "time": ("time",),
    "all": ("tune", "final", "time"),
}


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--study", required=True, metavar="FILE", help="YAML file of the study")
    parser.add_argument(
        "--stage",
        choices=tuple(STAGES),
        help="runs to make: tuning, final, the time of training steps, or all in turn",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="write RESULTS/table.md and the figures of the finished runs",
    )
    parser.add_argument("--sets", metavar="A,B", help="data sets; by default all")
    parser.add_argument("--variants", metavar="A,B", help="variants; by default all")
    parser.add_argument(
        "--seeds", metavar="A,B", help="seeds of the final runs; by default those of the study"
    )
    parser.add_argument(
        "--data_root", default="data", help="folder that the study's data.root are relative to"
    )
    parser.add_argument("--output", help="folder for the runs")
    parser.add_argument(
        "--results",
        required=True,
        help="folder of the JSON lines, STAGE/SET.jsonl: one for each finished run",
    )
    parser.add_argument(
        "--discard_runs",
        action="store_true",
        help="delete the folder of a run once its line is written",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage, write the report, or both; 1 if final runs were skipped because their tuning is
    not complete or diverged.

    Raises:
        InputError: a study, names or data that cannot be used.
    """
    given = _parser().parse_args(arguments)
    if given.stage is None and not given.report:
        raise InputError("give --stage tune, final, time or all, or --report")
    if given.stage is not None and given.output is None:
        raise InputError("--stage needs --output, a folder for the runs")
    from kanseg.experiments.compare.study_file import chosen_names, read_study

    study = read_study(Path(given.study))
    if given.seeds is not None:
        study = replace(study, seeds=tuple(dict.fromkeys(integers(given.seeds, "--seeds"))))
    sets = chosen_names(given.sets, list(study.sets), "--sets")
    variants = chosen_names(given.variants, [*study.variants, *study.longer], "--variants")
    status = 0
    for stage in STAGES.get(given.stage, ()):
        status |= _run_stage(stage, study, sets, variants, given)
    if given.report:
        from kanseg.experiments.compare.study_report import write_study

        write_study(study, sets, variants, Path(given.results))
    return status


def _run_stage(
    stage: str, study: Any, sets: Sequence[str], variants: Sequence[str], given: Any
) -> int:
    from kanseg.experiments.compare.study import check_data, final_jobs, run_jobs, tuning_jobs
    from kanseg.experiments.compare.study_time import time_variants

    output, results = Path(given.output), Path(given.results)
    folders = {"data_root": Path(given.data_root), "output": output}
    skipped: list[str] = []
    check_data(study, sets, folders["data_root"])
    if stage == "time":
        for name in sets:
            time_variants(study, name, variants, results, **folders, log=_log)
        return 0
    if stage == "tune":
        jobs = tuning_jobs(study, sets, variants, **folders)
    else:
        jobs, skipped = final_jobs(study, sets, variants, results, **folders)
    run_jobs(jobs, output=output, results=results, discard=given.discard_runs, log=_log)
    for reason in skipped:
        _log(f"study: skipped: {reason}")
    return 1 if skipped else 0


def _log(line: str) -> None:
    print(line, flush=True)
