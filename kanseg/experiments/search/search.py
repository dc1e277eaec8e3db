"""Search for the settings with the best validation score, with optuna. Each trial is a training run
of its own.

Everyone who opens the storage of the study joins the search: the same command after an
interruption, or several processes at once.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kanseg.experiments.search.results import counted_trials, origin, write_results
from kanseg.experiments.search.space import Parameter, read_space, with_settings
from kanseg.experiments.settings import MAY_DIFFER, start_options
from kanseg.training.run import TASKS, train
from kanseg.training.run_folder.resume import settings_changed
from kanseg.training.settings import check_settings
from kanseg.utils.environment import launched_processes
from kanseg.utils.errors import InputError

STUDY = "kanseg"
# Errors that end a trial but not the search; running out of memory is a RuntimeError.
TRIAL_ERRORS = (RuntimeError, ValueError, ArithmeticError, OSError)
MAX_ATTEMPTS = 2  # of a trial that dies
MAX_FAILED = 3  # trials that fail before any has succeeded, after which the search stops
OPEN_ATTEMPTS = 4  # to open a storage that another process is creating
# Seconds between signs of life, and without one until a trial on another machine counts as dead.
HEARTBEAT, GRACE_PERIOD = 60, 300
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
    """Run trials until the study has as many as asked for, and return the path of the best settings
    (None while other processes run the first trials).

    Each trial trains into `run_dir/trial_NNNN` with sampled settings. Its score is
    `training.monitor` of its best weights on val; the test split is not used. A trial that dies is
    marked as failed, and its settings are tried once more, from its last checkpoint if there is
    one. After every trial `run_dir` gets best.yaml (all settings of the best trial), trials.csv and
    scores.png.

    Args:
        config: the experiment, of either kind.
        space_file: YAML as of `read_space`.
        trials: total number in the study, failed ones included.
        storage: URL of the study, by default an SQLite file in run_dir.
        prune: stop trials that are worse at an epoch than the median of the others.
        log: gets a line for everything that happens.

    Raises:
        InputError: settings, space or storage that cannot be used; optuna is missing; another
            search in the storage; no trial succeeds.
    """
    if launched_processes() > 1:
        raise InputError(
            "a search trains every trial in one process: start the command several times instead of"
            " by torchrun"
        )
    optuna = _import_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not config.data.val:
        raise InputError("a search needs scores on val: name a split in data.val")
    task = TASKS[type(config)](config)
    check_settings(task)
    space = read_space(space_file, config)
    # Open the data now: with bad data one trial after the other would fail.
    task.open(checkpoint=None, log=lambda _: None)
    run = Path(config.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    study = _open_study(storage or f"sqlite:///{run}/study.db", config, space, prune=prune)

    def run_trial(trial: Any) -> float:
        return _run_trial(trial, config, space, trials, prune=prune, log=log)

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
        raise InputError(f"no trial has succeeded: {run / 'trials.csv'} has the reasons")
    log(
        f"search: best {config.training.monitor} {study.best_value:.4f} of trial"
        f" {origin(study.best_trial)}; settings: {best}"
    )
    return best


def _import_optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise InputError("a search needs optuna: python -m pip install 'optuna>=3'") from None
    return optuna


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
    mine = {
        "config": config.to_yaml(),
        "space": {name: repr(parameter) for name, parameter in space.items()},
    }
    stored = study.user_attrs
    for key, value in mine.items():
        if key not in stored:
            study.set_user_attr(key, value)
    changes = []
    for change in settings_changed(stored.get("config", mine["config"]), config):
        if change.split(": ")[0] not in MAY_DIFFER:
            changes.append(change)
    if stored.get("space", mine["space"]) != mine["space"]:
        changes.append("another space")
    if changes:
        raise InputError(
            f"{storage} holds a search with other settings ({'; '.join(changes)}); give a new one"
            " another --run_dir or --storage"
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
                    raise InputError(
                        f"--storage {storage}: {' '.join(str(error).split())[:300]}"
                    ) from None
        time.sleep(attempt)
    raise AssertionError("the last attempt returns or raises")


def _fail_dead_trials(study: Any) -> None:
    """Mark running trials as failed if their process is gone: at once on this machine, and after
    GRACE_PERIOD on others.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heartbeats are experimental
        optuna.storages.fail_stale_trials(study)
    running = optuna.trial.TrialState.RUNNING
    for trial in study.get_trials(deepcopy=False, states=(running,)):
        is_local = trial.user_attrs.get("host") == socket.gethostname()
        if is_local and not _is_alive(trial.user_attrs["pid"]):
            failed = optuna.trial.TrialState.FAIL
            study.tell(trial.number, state=failed, skip_if_finished=True)


def _is_alive(pid: int) -> bool:
    """True if another process of this machine has this number. This process itself is not running
    a trial now.
    """
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # os.kill would end the process there; the heartbeat decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _next_trial(study: Any, trials: int, log: Log) -> str | None:
    """Name the trial that is run next; None if all are done or run by others. Settings of failed
    trials are enqueued again.

    optuna's own retry callback is for stale heartbeats only: it would neither retry trials that
    raise, nor distinguish those from trials that the user interrupted.
    """
    import optuna

    attempts: dict[int, list[Any]] = {}
    for trial in counted_trials(study):
        attempts.setdefault(origin(trial), []).append(trial)
    for number, tried in attempts.items():
        if _deserves_retry(tried):
            log(f"search: trial {number} died; its settings are tried again")
            study.enqueue_trial(tried[-1].params, user_attrs={"retry_of": number})
    waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    if waiting:
        return f"trial {origin(waiting[0])} of {trials}, again"
    if len(attempts) < trials:
        return f"trial {len(attempts)} of {trials}, counted from 0"
    return None


def _deserves_retry(tried: list[Any]) -> bool:
    """True if all attempts of a trial failed, and another one may succeed. Attempts that the user
    interrupted do not count.
    """
    if any(trial.state.name != "FAIL" for trial in tried):
        return False
    if tried[-1].user_attrs.get("final"):
        return False
    died = [trial for trial in tried if not trial.user_attrs.get("interrupted")]
    return len(died) < MAX_ATTEMPTS


def _run_trial(
    trial: Any,
    config: Any,
    space: dict[str, Parameter],
    trials: int,
    *,
    prune: bool,
    log: Log,
) -> float:
    """Train with sampled settings, and return the score."""
    import optuna

    if _is_surplus(trial, trials):
        trial.set_user_attr("surplus", True)
        raise InputError("another process was faster")
    trial.set_user_attr("host", socket.gethostname())
    trial.set_user_attr("pid", os.getpid())
    # A sampler for each trial: a resumed study proposes the same as an uninterrupted one, and two
    # processes never propose the same.
    trial.study.sampler = optuna.samplers.TPESampler(
        seed=config.seed * 100_003 + trial.number, multivariate=False, constant_liar=True
    )
    values = {name: parameter.sample(trial) for name, parameter in space.items()}
    folder = Path(config.run_dir) / f"trial_{origin(trial):04d}"
    log(f"search: {folder}: {', '.join(f'{name} {value}' for name, value in values.items())}")
    monitor = config.training.monitor

    def report(entry: dict[str, Any]) -> None:
        score = entry.get("val", {}).get(monitor)
        if score is not None and score == score:
            trial.report(score, entry["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

    with _recorded(trial, log):
        mine = with_settings(config, values | {"run_dir": str(folder), "data.test": []})
        options = start_options(folder, discard_damaged=True)
        results = train(mine, on_epoch_end=report if prune else None, **options)
        score = TASKS[type(mine)](mine).headline(results["val"])[monitor]
        if score != score:
            raise InputError(f"{monitor} is undefined on val")
        return score


@contextmanager
def _recorded(trial: Any, log: Log) -> Iterator[None]:
    """Store in the study how a trial ended, and how long it took."""
    started = time.perf_counter()
    try:
        yield
    except TRIAL_ERRORS as error:
        is_final = isinstance(error, InputError)  # another attempt would raise it too
        text = " ".join(str(error).split())
        reason = str(error) if is_final else f"{type(error).__name__}: {text}"
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
    """True if another process took the last place, or this attempt, earlier; the lower number
    counts.
    """
    earlier = [each for each in counted_trials(trial.study) if each.number < trial.number]
    if "retry_of" in trial.user_attrs:
        attempts = [each for each in earlier if origin(each) == origin(trial)]
        return any(each.state.name != "FAIL" for each in attempts)
    return len({origin(each) for each in earlier}) >= trials


def _stop_if_hopeless(study: Any) -> None:
    """InputError if the first trials have all failed."""
    finished = [trial for trial in counted_trials(study) if trial.state.is_finished()]
    errors = []
    for trial in finished:
        if trial.state.name == "FAIL" and "error" in trial.user_attrs:
            errors.append(trial.user_attrs["error"])
    if len(errors) == len(finished) and len(errors) >= MAX_FAILED:
        raise InputError(f"{len(errors)} trials failed and none succeeded; the last: {errors[-1]}")
