"""Train all folds of a cross-validation with one command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from kanseg.experiments.cross_validation.report import write_folds
from kanseg.experiments.settings import is_finished, options_to_finish
from kanseg.training.processes import make_accelerator
from kanseg.training.run import train
from kanseg.training.run_folder.resume import RunBusy
from kanseg.training.task import Log
from kanseg.utils.errors import InputError

OTHER_SETTINGS = (
    "choose another --run_dir, or use --overwrite, which trains all folds again in this one"
)


def cross_validate(
    config: Any, *, overwrite: bool = False, accept_changes: bool = False
) -> dict[str, Any] | None:
    """Train fold K of the data set into `run_dir/fold_K`, for all folds, and write their summary
    into `run_dir`.

    Finished folds are not trained again, and unfinished ones are resumed, so that the same call
    continues after an interruption. Folds that another process trains are left to it.

    Args:
        config: all settings; `data.folds` is the number of folds.
        overwrite: train all folds again.
        accept_changes: as of `train`, for folds that are resumed.

    Returns:
        The summary (`sum_up`); None if another process is still training a fold.

    Raises:
        InputError: fewer than two folds, a fold that is chosen, or whatever `train` raises.
    """
    check_folds(config)
    accelerator = make_accelerator(config.training.precision)
    # the other processes print nothing
    log: Log = partial(print, flush=True) if accelerator.is_main_process else lambda line: None
    folds = [config_of_fold(config, fold) for fold in range(config.data.folds)]
    if not overwrite:
        for each in folds:  # before the first one trains for hours
            is_finished(each, hint=OTHER_SETTINGS)
    for fold, each in enumerate(folds):
        options = {"overwrite": True}
        if not overwrite:
            options = _of_main_process(
                partial(options_to_finish, each, hint=OTHER_SETTINGS), accelerator
            )
        if options is None:
            log(f"folds: {each.run_dir} is finished")
            continue
        if options.get("resume"):
            options["accept_changes"] = accept_changes
        log(f"folds: fold {fold} ({fold + 1} of {len(folds)}) -> {each.run_dir}")
        _train_fold(each, options, accelerator, log)
    summary = None
    if accelerator.is_main_process:
        summary = _sum_up_finished(config, folds, log)
    accelerator.wait_for_everyone()
    return summary


def check_folds(config: Any) -> None:
    """Check that the settings have folds, that none of them is chosen, and that run_dir is no run.

    Raises:
        InputError: they cannot be cross-validated.
    """
    data = config.data
    if data.folds < 2:
        raise InputError(
            f"--all_folds needs data.folds, a number of 2 or more such as --data.folds 5; it is"
            f" {data.folds}"
        )
    if data.fold:
        raise InputError(
            f"--all_folds trains every fold, and data.fold chooses fold {data.fold}; leave one of"
            " them out"
        )
    if (Path(config.run_dir) / "config.yaml").exists():
        raise InputError(
            f"{config.run_dir} holds a single run; choose another --run_dir for all folds"
        )


def config_of_fold(config: Any, fold: int) -> Any:
    """Return the settings of the run of a fold."""
    run = fold_folder(Path(config.run_dir), fold)
    return replace(config, data=replace(config.data, fold=fold), run_dir=str(run))


def fold_folder(folder: Path, fold: int) -> Path:
    """The folder of the run of a fold."""
    return folder / f"fold_{fold}"


def _of_main_process(function: Callable[[], Any], accelerator: Accelerator) -> Any:
    """Call a function in the main process only, and return its value in all processes: files that
    it reads may change while others would read them.
    """
    values = [function() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(values)
    return values[0]


def _train_fold(config: Any, options: dict[str, bool], accelerator: Accelerator, log: Log) -> None:
    """Train a fold, unless another process trains it."""
    try:
        train(config, **options)
    except RunBusy:
        if accelerator.num_processes > 1:  # the other processes of this run wait for this one
            raise
        log(f"folds: {config.run_dir} is being trained by another process")
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{stop}; the same command continues all folds") from None


def _sum_up_finished(config: Any, folds: list[Any], log: Log) -> dict[str, Any] | None:
    """Write the summary of the folds; None if some are not finished."""
    missing = [each.run_dir for each in folds if not is_finished(each, hint=OTHER_SETTINGS)]
    if missing:
        log(f"folds: not finished yet, so there is no summary: {', '.join(missing)}")
        return None
    return write_folds(Path(config.run_dir), [Path(each.run_dir) for each in folds], log=log)
