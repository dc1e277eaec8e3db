"""Search for the settings with the best validation score, with optuna. Each trial is a training
run.

Every process that opens the storage of the study joins the search, so the same command can be
started again after an interruption, or several times at once.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from kanseg.experiments.search.results import counted_trials, origin, write_results
from kanseg.experiments.search.space import Parameter, read_space, with_settings
from kanseg.experiments.settings import MAY_DIFFER, start_options
from kanseg.inference.files.processes import ProcessId, this_host, this_process
from kanseg.training.run import TASKS, train
from kanseg.training.run_folder.resume import settings_changed
from kanseg.training.settings import check_settings
from kanseg.utils.environment import launched_processes
from kanseg.utils.errors import InputError
from kanseg.utils.installation import install
from kanseg.utils.text import one_line

STUDY = "kanseg"
# Errors that end a trial but not the search; running out of memory is a RuntimeError.
TRIAL_ERRORS = (RuntimeError, ValueError, ArithmeticError, OSError)
MAX_ATTEMPTS = 2  # of a trial that dies
MAX_FAILED = 3  # the search stops if so many trials have failed and none has succeeded
OPEN_ATTEMPTS = 4  # to open a storage that another process is creating
HEARTBEAT = 60  # seconds between heartbeats of a running trial
GRACE_PERIOD = 300  # seconds without a heartbeat after which a trial on another host counts as dead
Log = Callable[[str], None]


def search(
    config: Any,
    space_file: Path | str,
    *,
    trials: int,
    storage: str | None = None,
    prune: bool = False,
    log: Log = print,
) -> Path | None:
    """Run trials until the study has `trials`, and return the path of the best settings (None if
    other processes are still running the first trials).

    Each trial trains into `run_dir/trial_NNNN` with sampled settings. Its score is
    `training.monitor` of its best weights on val; the test split is not used. A trial that dies is
    marked as failed and repeated once, from its last checkpoint if there is one. After every trial
    best.yaml (all settings of the best trial), trials.csv and scores.png are written to `run_dir`.

    Args:
        config: the experiment, segmentation or classification.
        space_file: YAML as of `read_space`.
        trials: total number in the study, including failed trials.
        storage: URL of the study, by default an SQLite file in run_dir.
        prune: stop trials that are worse than the median of the others at the same epoch.
        log: called with each line of progress.

    Raises:
        InputError: settings, space or storage that cannot be used; optuna is missing; another
            search in the storage; no trial succeeds.
    """
    if launched_processes() > 1:
        raise InputError(
            "a search trains every trial in one process; start the command several times instead of"
            " with torchrun"
        )
    try:
        import optuna
    except ModuleNotFoundError:
        raise InputError(f"a search needs optuna: {install('search')}") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not config.data.val:
        raise InputError("a search needs scores on val; give a split in data.val")
    task = TASKS[type(config)](config)
    check_settings(task)
    space = read_space(space_file, config)
    # Open the data now: with bad data every trial would fail.
    task.open(checkpoint=None, log=lambda _: None)
    run = Path(config.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    study = _open_study(storage or f"sqlite:///{run}/study.db", config, space, prune=prune)
    run_trial = partial(
        _run_trial, config=config, space=space, num_trials=trials, prune=prune, log=log
    )
    while True:
        _fail_dead_trials(study)
        next_trial = _next_trial(study, trials, log)
        if next_trial is None:
            break
        log(f"search: {next_trial}")
        study.optimize(run_trial, n_trials=1, catch=TRIAL_ERRORS)
        write_results(study, config, space)
        _stop_if_hopeless(study)
    best = write_results(study, config, space)
    if best is None:
        running = optuna.trial.TrialState.RUNNING
        if study.get_trials(deepcopy=False, states=(running,)):
            log("search: the remaining trials are run by other processes")
            return None
        raise InputError(f"no trial has succeeded; {run / 'trials.csv'} has the reasons")
    log(
        f"search: best {config.training.monitor} {study.best_value:.4f} of trial"
        f" {origin(study.best_trial)}; settings: {best}"
    )
    return best


def _open_study(storage: str, config: Any, space: dict[str, Parameter], *, prune: bool) -> Any:
    """Open or create the study of this search.

    Raises:
        InputError: the storage cannot be opened, or holds another search.
    """
    import optuna

    pruner: Any = optuna.pruners.NopPruner()
    if prune:
        # The median says little after a few trials, and in the first epochs.
        pruner = optuna.pruners.MedianPruner(
            n_startup_trials=5, n_warmup_steps=config.training.epochs // 5
        )
    study = _open_storage(storage, pruner)
    own_config = config.to_yaml()
    own_space = {name: repr(parameter) for name, parameter in space.items()}
    stored = study.user_attrs
    if "config" not in stored:
        study.set_user_attr("config", own_config)
    if "space" not in stored:
        study.set_user_attr("space", own_space)
    changes = []
    for change in settings_changed(stored.get("config", own_config), config):
        if change.split(": ")[0] not in MAY_DIFFER:
            changes.append(change)
    if stored.get("space", own_space) != own_space:
        changes.append("another space")
    if changes:
        raise InputError(
            f"{storage} holds a search with other settings ({'; '.join(changes)}); give another"
            " --run_dir or --storage"
        )
    return study


def _open_storage(storage: str, pruner: Any) -> Any:
    import optuna
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    engine = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    for attempt in range(1, OPEN_ATTEMPTS + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are experimental
            try:
                store = optuna.storages.RDBStorage(
                    storage,
                    engine_kwargs=engine,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE_PERIOD,
                )
                return optuna.create_study(
                    storage=store,
                    study_name=STUDY,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=pruner,
                )
            except (SQLAlchemyError, ImportError, ValueError) as error:
                # Two processes that start together create the same tables, and one of them fails.
                if attempt == OPEN_ATTEMPTS or not isinstance(error, DBAPIError):
                    raise InputError(f"--storage {storage}: {one_line(error)}") from None
        time.sleep(attempt)
    raise AssertionError("the last attempt returns or raises")


def _fail_dead_trials(study: Any) -> None:
    """Mark running trials as failed if their process is gone: at once on this host, and after
    GRACE_PERIOD on others.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heartbeats are experimental
        optuna.storages.fail_stale_trials(study)
    running = optuna.trial.TrialState.RUNNING
    for trial in study.get_trials(deepcopy=False, states=(running,)):
        if "process" not in trial.user_attrs:  # begins just now
            continue
        process = ProcessId(**trial.user_attrs["process"])
        # This process is not running a trial now.
        is_own = process.host == this_host() and process.pid == os.getpid()
        if is_own or process.has_ended():
            failed = optuna.trial.TrialState.FAIL
            study.tell(trial.number, state=failed, skip_if_finished=True)


def _next_trial(study: Any, trials: int, log: Log) -> str | None:
    """Describe the next trial; None if all are finished or run by other processes. Settings of
    failed trials are enqueued again.

    optuna's own retry callback handles stale heartbeats only: it does not retry trials that raise,
    or distinguish them from trials that the user interrupted.
    """
    import optuna

    attempts_of: dict[int, list[Any]] = {}
    for trial in counted_trials(study):
        attempts_of.setdefault(origin(trial), []).append(trial)
    for number, attempts in attempts_of.items():
        if _should_retry(attempts):
            log(f"search: trial {number} died and is repeated")
            study.enqueue_trial(attempts[-1].params, user_attrs={"retry_of": number})
    waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    if waiting:
        return f"trial {origin(waiting[0])} of {trials}, again"
    if len(attempts_of) < trials:
        return f"trial {len(attempts_of) + 1} of {trials}"
    return None


def _should_retry(attempts: list[Any]) -> bool:
    """True if all attempts of a trial failed and another one may succeed. Attempts that the user
    interrupted do not count.
    """
    num_died = 0
    for trial in attempts:
        if trial.state.name != "FAIL":
            return False
        if not trial.user_attrs.get("interrupted"):
            num_died += 1
    return num_died < MAX_ATTEMPTS and not attempts[-1].user_attrs.get("final")


def _run_trial(
    trial: Any,
    *,
    config: Any,
    space: dict[str, Parameter],
    num_trials: int,
    prune: bool,
    log: Log,
) -> float:
    """Train with sampled settings, and return the score."""
    import optuna

    if _is_surplus(trial, num_trials):
        trial.set_user_attr("surplus", True)
        raise InputError("another process runs the last trial")
    trial.set_user_attr("process", asdict(this_process()))
    # Each trial seeds its own sampler: a resumed study proposes the same settings as an
    # uninterrupted one, and no two processes propose the same.
    trial.study.sampler = optuna.samplers.TPESampler(
        seed=config.seed * 100_003 + trial.number, multivariate=False, constant_liar=True
    )
    values = {name: parameter.sample(trial) for name, parameter in space.items()}
    folder = Path(config.run_dir) / f"trial_{origin(trial):04d}"
    sampled = [f"{name} {value}" for name, value in values.items()]
    log(f"search: {folder}: {', '.join(sampled)}")
    monitor = config.training.monitor

    def report(entry: dict[str, Any]) -> None:
        score = entry.get("val", {}).get(monitor)
        if score is not None and not math.isnan(score):
            trial.report(score, entry["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

    with _recorded(trial, log):
        trial_config = with_settings(config, values | {"run_dir": str(folder), "data.test": []})
        options = start_options(folder, discard_damaged=True)
        results = train(trial_config, on_epoch_end=report if prune else None, **options)
        score = TASKS[type(trial_config)](trial_config).headline(results["val"])[monitor]
        if math.isnan(score):
            raise InputError(f"{monitor} is undefined on val")
        return score


@contextmanager
def _recorded(trial: Any, log: Log) -> Iterator[None]:
    """Store the outcome and duration of a trial in the study."""
    started = time.perf_counter()
    try:
        yield
    except TRIAL_ERRORS as error:
        is_final = isinstance(error, InputError)  # another attempt would raise it too
        reason = str(error)
        if not is_final:
            reason = f"{type(error).__name__}: {one_line(error, None)}"
        trial.set_user_attr("error", reason[:500])
        trial.set_user_attr("final", is_final)
        log(f"search: trial {trial.number} failed: {reason}")
        raise
    except (KeyboardInterrupt, SystemExit):
        trial.set_user_attr("interrupted", True)
        raise
    finally:
        trial.set_user_attr("seconds", round(time.perf_counter() - started, 1))


def _is_surplus(trial: Any, trials: int) -> bool:
    """True if another process started the last trial, or this attempt, earlier. Of two trials the
    lower number counts.
    """
    earlier = [each for each in counted_trials(trial.study) if each.number < trial.number]
    if "retry_of" in trial.user_attrs:
        attempts = [each for each in earlier if origin(each) == origin(trial)]
        return any(each.state.name != "FAIL" for each in attempts)
    return len({origin(each) for each in earlier}) >= trials


def _stop_if_hopeless(study: Any) -> None:
    """Raise InputError if the first MAX_FAILED trials have all failed."""
    errors = []
    for trial in counted_trials(study):
        if trial.state.name == "FAIL" and "error" in trial.user_attrs:
            errors.append(trial.user_attrs["error"])
        elif trial.state.is_finished():
            return
    if len(errors) >= MAX_FAILED:
        raise InputError(f"{len(errors)} trials failed and none succeeded; the last: {errors[-1]}")
