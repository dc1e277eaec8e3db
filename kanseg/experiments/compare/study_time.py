"""Time training steps of the variants of a study in turns, so that other load affects all alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kanseg.benchmark.measure import Ratio, Setting, Step, interleaved, ratio
from kanseg.data.loader import to_device
from kanseg.experiments.compare.study import Job, make_job
from kanseg.experiments.compare.study_file import Study
from kanseg.experiments.compare.study_results import code_version
from kanseg.training.processes import make_accelerator
from kanseg.training.run import create_state, create_task, create_train_loader
from kanseg.training.run_folder.resume import RunBusy, lock_run
from kanseg.utils.environment import environment_line
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_json

ROUNDS = 15


def time_variants(
    study: Study,
    set_name: str,
    variants: Sequence[str],
    results: Path,
    *,
    data_root: Path,
    output: Path,
    rounds: int = ROUNDS,
    log: Callable[[str], None] = print,
) -> dict[str, Ratio]:
    """Time a training step of the variants on a batch of a data set; write RESULTS/time/SET.json.

    Returns:
        variant -> CPU time of its step relative to the baseline; empty if another process is
        measuring the data set.
    """
    timed = [name for name in dict.fromkeys([study.baseline, *variants]) if name in study.variants]
    jobs = {name: _timed_job(study, set_name, name, data_root, output) for name in timed}
    try:
        with lock_run(output / "time" / set_name):
            content = {
                "milliseconds": _step_times(jobs, rounds),
                "settings_hash": {name: job.hash for name, job in jobs.items()},
                "environment": environment_line("cpu"),
                **code_version(),
            }
    except RunBusy:
        log(f"study: time, {set_name}: is being measured by another process")
        return {}
    path = time_file(results, set_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(content, indent=1) + "\n")
    ratios = step_ratios(study, set_name, results)
    for variant, found in ratios.items():
        log(f"study: {set_name}, {variant}: a step takes {found} times that of {study.baseline}")
    return ratios


def _step_times(jobs: Mapping[str, Job], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the steps of each run, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {name: training_step(job) for name, job in jobs.items()}
        return interleaved(steps, Setting(rounds=rounds))
    finally:
        torch.set_num_threads(threads)


def _timed_job(study: Study, set_name: str, variant: str, data_root: Path, output: Path) -> Job:
    """The run whose steps are timed; its learning rate does not matter."""
    folders = {"data_root": data_root, "output": output}
    overrides = study.variants[variant]
    return make_job(study, "final", set_name, variant, overrides, seed=0, **folders)


def training_step(job: Job) -> Step:
    """A function that trains for one step, always on the first batch."""
    settings = job.config.training
    unread: list[str] = []
    task = create_task(job.config, resume=False, accept_changes=False)
    dataset = task.open(checkpoint=None, log=unread.append)
    torch.manual_seed(job.config.seed)
    accelerator = make_accelerator(settings.precision)
    state = create_state(task, accelerator, None, unread.append)
    batch = next(iter(create_train_loader(task, dataset, accelerator)))
    batch = to_device(batch, accelerator.device, task.preprocess)
    images, target = batch["image"], batch[task.target]

    def step() -> None:
        state.optimizer.zero_grad(set_to_none=True)
        task.loss(state.model(images), target).backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip)
        state.optimizer.step()

    return step


def time_file(results: Path, set_name: str) -> Path:
    """The file with the times on a data set."""
    return results / "time" / f"{set_name}.json"


def step_ratios(
    study: Study, set_name: str, results: Path, *, log: Callable[[str], None] = print
) -> dict[str, Ratio]:
    """Variant -> CPU time of a step relative to the baseline; empty if it was not measured.

    Times of other settings than the study's are left out.
    """
    path = time_file(results, set_name)
    if not path.is_file():
        return {}
    content: Mapping[str, Any] = read_json(path)
    hashes = content.get("settings_hash", {})
    times: dict[str, Sequence[float]] = {}
    for name, each in content["milliseconds"].items():
        if name in study.variants:
            if hashes.get(name) == _timed_job(study, set_name, name, Path(), Path()).hash:
                times[name] = each
            else:
                log(f"study: {path}: {name} was timed with other settings; repeat --stage time")
    if study.baseline not in times:
        return {}
    return {name: ratio(each, times[study.baseline]) for name, each in times.items()}
