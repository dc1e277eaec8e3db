"""Run a study: variants on several data sets, tuned on validation splits and tested once.

Every finished run appends a line to a JSON-lines file; a run that has a line is not repeated.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kanseg.config import ClassificationConfig, Config
from kanseg.data import open_data
from kanseg.experiments.compare.study_file import Settings, Study
from kanseg.experiments.compare.study_results import (
    STAGES,
    append_line,
    best_line,
    code_version,
    read_lines,
    results_file,
    run_line,
)
from kanseg.experiments.settings import MAY_DIFFER, flat_settings, with_values
from kanseg.training.loop import LossNotFinite
from kanseg.training.run import TASKS, train
from kanseg.training.run_folder.resume import RunBusy, lock_run
from kanseg.training.settings import check_settings
from kanseg.utils.errors import InputError

Log = Callable[[str], None]
Line = Mapping[str, Any]  # of a finished run

# Settings of every run: a single process and thread, so that CPU seconds include all work; no
# images, and for segmentation no surface distances.
OF_EVERY_RUN = {
    "data.workers": 0,
    "training.threads": 1,
    "training.tensorboard": False,
    "training.report": False,
    "training.log_images": 0,
    "training.log_health": False,
}
OF_EVERY_SEGMENTATION = {"training.surface": False}
# Settings that are not recorded: they do not change the score, or have their own entry (the seed).
NOT_RECORDED = (*MAY_DIFFER, "training.surface", "training.tolerance", "seed")


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    stage: str
    set_name: str
    variant: str
    overrides: Settings
    config: Config | ClassificationConfig

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that can change the score, section.key -> value, as in JSON."""
        return recorded_settings(self.config)

    @property
    def hash(self) -> str:
        """Hash of the settings."""
        return settings_hash(self.settings, type(self.config))

    def __str__(self) -> str:
        changed = ", ".join(f"{key} {value}" for key, value in self.overrides.items())
        return (
            f"{self.stage}, {self.set_name}, {self.variant}, seed {self.config.seed}"
            f" ({changed or 'no overrides'})"
        )


def recorded_settings(config: Config | ClassificationConfig) -> dict[str, Any]:
    """section.key -> value of the settings that can change the score, without the seed."""
    settings = flat_settings(config)
    for key in NOT_RECORDED:
        settings.pop(key, None)
    return json.loads(json.dumps(settings))


def settings_hash(settings: Settings, kind: type = Config) -> str:
    """Hash of the settings, 12 hex digits. Only settings that differ from the defaults count, so
    that new settings in later versions of kanseg do not change the hash.
    """
    defaults = recorded_settings(kind())
    changed = {key: value for key, value in settings.items() if value != defaults.get(key)}
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


def same_settings(stored: Settings, now: Settings, kind: type = Config) -> bool:
    """True if a stored run had these settings; settings that it lacks had their default."""
    defaults = recorded_settings(kind())
    return stored.keys() <= now.keys() and {**defaults, **stored} == {**defaults, **now}


def tuning_jobs(
    study: Study, sets: Sequence[str], variants: Sequence[str], *, data_root: Path, output: Path
) -> list[Job]:
    """The tuning runs: every value for every variant, without a test split."""
    key, values = study.tuned
    options = {"seed": study.tune_seed, "data_root": data_root, "output": output}
    jobs = []
    for set_name in sets:
        for variant in variants:
            if variant not in study.variants:
                continue
            for value in values:
                overrides = {**study.variants[variant], key: value}
                jobs.append(make_job(study, "tune", set_name, variant, overrides, **options))
    return jobs


def final_jobs(
    study: Study,
    sets: Sequence[str],
    variants: Sequence[str],
    results: Path,
    *,
    data_root: Path,
    output: Path,
) -> tuple[list[Job], list[str]]:
    """The final runs: every variant with its best value on validation, with a test split.

    Returns:
        (jobs, "set, variant: reason" of those that cannot be run yet).
    """
    folders = {"data_root": data_root, "output": output}
    chosen: dict[tuple[str, str], Any] = {}
    skipped = []
    for set_name in sets:
        lines = read_lines(results_file(results, "tune", set_name))
        for variant in variants:
            tuned, _ = study.longer.get(variant, (variant, 1.0))
            jobs = tuning_jobs(study, [set_name], [tuned], **folders)
            tuning = [find_line(job, lines) for job in jobs]
            if None in tuning:
                skipped.append(f"{set_name}, {tuned}: its tuning is not complete")
            elif all(line["mean"] is None for line in tuning):
                skipped.append(f"{set_name}, {tuned}: all its tuning runs diverged")
            else:
                chosen[set_name, variant] = study.tuned[1][best_line(tuning)]
    jobs = []
    for seed in study.seeds:
        for (set_name, variant), value in chosen.items():
            jobs.append(_final_job(study, set_name, variant, value, seed, **folders))
    return jobs, list(dict.fromkeys(skipped))


def _final_job(
    study: Study, set_name: str, variant: str, value: Any, seed: int, **folders: Path
) -> Job:
    tuned, factor = study.longer.get(variant, (variant, 1.0))
    overrides = {**study.variants[tuned], study.tuned[0]: value}
    job = make_job(study, "final", set_name, variant, overrides, seed=seed, **folders)
    if factor == 1:
        return job
    epochs = max(round(job.config.training.epochs * factor), 1)
    training = replace(job.config.training, epochs=epochs)
    overrides = {**overrides, "training.epochs": epochs}
    return replace(job, overrides=overrides, config=replace(job.config, training=training))


def make_job(
    study: Study,
    stage: str,
    set_name: str,
    variant: str,
    overrides: Settings,
    *,
    seed: int,
    data_root: Path,
    output: Path,
) -> Job:
    """A run of a study, from the overrides of its variant and a tuned value."""
    fixed: dict[str, Any] = dict(OF_EVERY_RUN)
    if study.kind is Config:
        fixed |= OF_EVERY_SEGMENTATION
    nested = with_values(study.sets[set_name], {**overrides, **fixed})
    try:
        config = copy.deepcopy(_read_config(study.kind, yaml.safe_dump(nested)))
    except InputError as error:
        raise InputError(f"{study.path}: {set_name}, {variant}: {error}") from None
    root = data_root / config.data.root
    if _is_written(config):
        root = output / "data" / set_name
    data = replace(config.data, root=str(root))
    if stage == "tune":
        data.test = []  # so that the test split is not measured
    config = replace(config, data=data, seed=seed)
    return Job(stage, set_name, variant, dict(overrides), config)


@cache  # all seeds of a variant have the same settings
def _read_config(kind: type, text: str) -> Config | ClassificationConfig:
    return kind.from_yaml(text)


def _is_written(config: Config | ClassificationConfig) -> bool:
    """True if the data set is a built-in one, which kanseg writes."""
    return isinstance(config, Config) and config.data.prepare is not None


def check_data(study: Study, sets: Sequence[str], data_root: Path) -> None:
    """Raise InputError if the folder of a data set is missing, before the first of many runs."""
    for name in sets:
        data = study.sets[name].get("data", {})
        is_on_disk = "root" in data and not data.get("prepare")
        if is_on_disk and not (data_root / data["root"]).exists():
            raise InputError(
                f"{study.path}: {name}: no such folder: {data_root / data['root']} (--data_root and"
                " data.root)"
            )


def find_line(job: Job, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line of a job; None if it has none."""
    settings = job.settings
    for line in lines:
        name = (line["set"], line["variant"], line["seed"])
        same = name == (job.set_name, job.variant, job.config.seed)
        if same and same_settings(line["settings"], settings, type(job.config)):
            return line
    return None


class FittingLines(NamedTuple):
    """The lines of the runs that a study asks for.

    Args:
        tuned: set -> lines of the tuning.
        final: set -> variant -> seed -> line.
        left_out: a sentence for each file with other lines.
    """

    tuned: dict[str, list[Line]]
    final: dict[str, dict[str, dict[int, Line]]]
    left_out: list[str]


def fitting_lines(
    study: Study, sets: Sequence[str], variants: Sequence[str], results: Path
) -> FittingLines:
    """Find the lines of a study, in its order. Lines of other settings or seeds than the study's,
    such as those from before a change of its file, are left out; of several lines of a run the
    first counts.

    Raises:
        InputError: a damaged line.
    """
    found = FittingLines({}, {}, [])
    folders = {"data_root": Path(), "output": Path()}  # not part of the settings
    for name in sets:
        path = results_file(results, "tune", name)
        lines, known = _lines_of(path, variants)
        jobs = tuning_jobs(study, [name], known, **folders)
        found.tuned[name] = _fitting(jobs, lines, path, found.left_out)
        path = results_file(results, "final", name)
        lines, known = _lines_of(path, variants)
        jobs, _ = final_jobs(study, [name], known, results, **folders)
        runs: dict[str, dict[int, Line]] = {variant: {} for variant in known}
        for line in _fitting(jobs, lines, path, found.left_out):
            runs[line["variant"]][line["seed"]] = line
        runs = {variant: by_seed for variant, by_seed in runs.items() if by_seed}
        if runs:
            found.final[name] = runs
    return found


def _lines_of(path: Path, variants: Sequence[str]) -> tuple[list[Line], list[str]]:
    """The lines of some variants in a file, and those variants that have lines, in their order."""
    lines = [line for line in read_lines(path) if line["variant"] in variants]
    found = {line["variant"] for line in lines}
    return lines, [variant for variant in variants if variant in found]


def _fitting(
    jobs: Sequence[Job], lines: Sequence[Line], path: Path, left_out: list[str]
) -> list[Line]:
    """The line of each job that has one; a sentence about the others is added to `left_out`."""
    found = [line for job in jobs if (line := find_line(job, lines)) is not None]
    if len(found) < len(lines):
        left_out.append(
            f"{path}: {len(lines) - len(found)} of {len(lines)} lines are left out: they have other"
            " settings or seeds than the study, or repeat a run"
        )
    return found


def run_jobs(
    jobs: Sequence[Job], *, output: Path, results: Path, discard: bool = False, log: Log = print
) -> None:
    """Run the jobs that have no line yet, except those that another process is running.

    An interrupted run starts again, because its CPU seconds are unknown.

    Args:
        jobs: of one stage.
        output: folder for the runs, OUTPUT/STAGE/SET/VARIANT/HASH_SEED.
        results: folder of the JSON lines, RESULTS/STAGE/SET.jsonl.
        discard: delete the folder of a run once its line is written.
        log: called with each line of progress.

    Raises:
        InputError: settings or data that cannot be used.
    """
    one_per_variant = {(job.set_name, job.variant): job for job in jobs}
    for job in one_per_variant.values():
        try:  # check all variants before the first run
            check_settings(TASKS[type(job.config)](job.config))
        except InputError as error:
            raise InputError(f"{job.set_name}, {job.variant}: {error}") from None
    code = code_version()
    for number, job in enumerate(jobs, 1):
        folder = output / job.stage / job.set_name / job.variant
        folder = folder / f"{job.hash}_{job.config.seed}"
        try:
            with lock_run(folder):
                # Read under the lock, since another process may have finished the job just now.
                done = find_line(job, read_lines(results_file(results, job.stage, job.set_name)))
                if done is not None:
                    continue
                log(f"study: {number}/{len(jobs)}: {job}")
                line = _run(job, folder / "run", code)
                append_line(results_file(results, job.stage, job.set_name), line)
                log(f"study: {_outcome(line)}")
                if discard:
                    shutil.rmtree(folder / "run", ignore_errors=True)
        except RunBusy:
            log(f"study: {number}/{len(jobs)}: {job} is being run by another process")


def _outcome(line: Mapping[str, Any]) -> str:
    if line["mean"] is None:
        return f"diverged: {line['error']}"
    return f"{line['split']} {line['score']} {line['mean']}"


def _run(job: Job, run: Path, code: Mapping[str, Any]) -> dict[str, Any]:
    """Train and measure, and return the line of the run."""
    config = replace(job.config, run_dir=str(run))
    if _is_written(config):
        try:
            open_data(config.data, log=lambda _: None)
        except OSError:  # another process wrote the data set at the same time
            open_data(config.data, log=lambda _: None)
    identity = {
        "stage": job.stage,
        "set": job.set_name,
        "variant": job.variant,
        "seed": config.seed,
        "overrides": dict(job.overrides),
        "settings_hash": job.hash,
        "settings": job.settings,
        **code,
    }
    split = STAGES[job.stage]
    try:
        train(config, overwrite=True)
    except LossNotFinite as error:
        return {**identity, "split": split, "score": None, "mean": None, "error": str(error)}
    return identity | run_line(run, split)
