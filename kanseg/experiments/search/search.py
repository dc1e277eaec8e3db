"""Search for the settings that validate best: trials of one experiment, proposed by optuna, each a
run of its own.

The study lives in a storage. Whoever opens it joins the search: the same command after an
interruption, or in several processes at once.
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

from kanseg.experiments.search.results import origin, write_results
from kanseg.experiments.search.space import Parameter, read_space, with_settings
from kanseg.training.run import TASKS, train
from kanseg.training.run_folder.resume import newest_complete, settings_changed
from kanseg.training.settings import check_settings
from kanseg.utils.environment import launched_processes
from kanseg.utils.errors import InputError

STUDY = "kanseg"
# In which the processes of one search may differ: where things lie, and what leaves the scores as
# they are.
MAY_DIFFER = (
    "run_dir",
    "data.root",
    "data.workers",
    *(
        f"training.{name}"
        for name in (
            "threads",
            "panels",
            "tensorboard",
            "wandb",
            "project",
            "log_images",
            "log_every",
            "keep",
            "save_every",
        )
    ),
)
FAULTS = (
    RuntimeError,
    ValueError,
    ArithmeticError,
    OSError,
)  # that end a trial and not the search; out of memory is a RuntimeError
OPENINGS = 4  # of a storage that another process is making at the moment
GIVE_UP = 3  # trials that fail before any has succeeded
HEARTBEAT, SILENCE = (
    60,
    300,
    # seconds between signs of life, and without one after which a trial on another machine is
    # taken for
    # dead
)


def search(
    config: Any,
    space_file: Path | str,
    *,
    trials: int,
    storage: str | None = None,
    prune: bool = False,
    log: Callable[[str], None] = print,
) -> Path | None:
    """Run trials until the study has as many as asked for, and return the path of the best settings
    (None while other processes run the first trials).

    Each trial trains into `run_dir/trial_NNNN` with sampled settings; `training.monitor` on val of
    its best weights is the score. The test split is not looked at. A trial that dies is marked
    failed and its settings are tried once more, from its last checkpoint where there is one.
    `run_dir` gets best.yaml (all settings of the best trial), trials.csv and scores.png after every
    trial.

    Args:
        config: the experiment, of either kind.
        space_file: YAML as of `read_space`.
        trials: in the study in all, failed ones included.
        storage: URL of the study, by default an SQLite file in run_dir.
        prune: end trials that are worse at an epoch than the median of the others.
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
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not config.data.val:
        raise InputError("a search is by the score on val: name a split in data.val")
    check_settings(TASKS[type(config)](config))
    space = read_space(space_file, config)
    TASKS[type(config)](config).open(
        checkpoint=None, log=lambda _: None
    )  # faults in the data would end one trial after the other
    run = Path(config.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    study = _open_study(storage or f"sqlite:///{run}/study.db", config, space, prune=prune)
    while (todo := _next(study, trials, log)) is not None:
        log(f"search: {todo}")
        study.optimize(
            lambda trial: _run_trial(trial, config, space, trials, prune=prune, log=log),
            n_trials=1,
            catch=FAULTS,
        )
        write_results(study, config, space)
        _stop_if_hopeless(study)
    best = write_results(study, config, space)
    if best is None and study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        log("search: the remaining trials are in other hands")
        return None
    if best is None:
        raise InputError(f"no trial has succeeded: {run / 'trials.csv'} tells why")
    log(
        f"search: best {config.training.monitor} {study.best_value:.4f} of trial"
        f" {origin(study.best_trial)}; settings: {best}"
    )
    return best


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise InputError("a search needs optuna: python -m pip install 'optuna>=3'") from None
    return optuna


def _open_study(storage: str, config: Any, space: dict[str, Parameter], *, prune: bool) -> Any:
    """The study of this search in the storage; InputError for a storage that cannot be opened or
    holds another search.
    """
    import optuna

    # after as many trials, and for the last epochs, the median is worth something
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=config.training.epochs // 5)
        if prune
        else optuna.pruners.NopPruner()
    )
    study = _open_storage(storage, pruner)
    known, mine = (
        study.user_attrs,
        {
            "config": config.to_yaml(),
            "space": {name: repr(parameter) for name, parameter in space.items()},
        },
    )
    for key, value in mine.items():
        if key not in known:
            study.set_user_attr(key, value)
    changes = [
        c
        for c in settings_changed(known.get("config", mine["config"]), config)
        if c.split(": ")[0] not in MAY_DIFFER
    ]
    if changes or known.get("space", mine["space"]) != mine["space"]:
        what = "; ".join(changes) or "another space"
        raise InputError(
            f"{storage} holds a search with other settings ({what}); give a new one another"
            " --run_dir or --storage"
        )
    return study


def _open_storage(storage: str, pruner: Any) -> Any:
    import optuna
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    engine = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    for attempt in range(1, OPENINGS + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that heartbeats are experimental
            try:
                store = optuna.storages.RDBStorage(
                    storage,
                    engine_kwargs=engine,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=SILENCE,
                )
                return optuna.create_study(
                    storage=store,
                    study_name=STUDY,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=pruner,
                )
            except (SQLAlchemyError, ImportError, ValueError) as error:
                # two processes that begin together make the same tables, and one of them fails
                if attempt == OPENINGS or not isinstance(error, DBAPIError):
                    raise InputError(
                        f"--storage {storage}: {' '.join(str(error).split())[:300]}"
                    ) from None
        time.sleep(attempt)
    raise AssertionError("the last attempt returns or raises")


def _next(study: Any, trials: int, log: Callable[[str], None]) -> str | None:
    """What is to be done next, in words; None when all is done or in other hands. Puts the settings
    of dead trials in line again.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if trial.user_attrs.get("host") == socket.gethostname() and not _alive(
            trial.user_attrs["pid"]
        ):
            study.log(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
    attempts: dict[int, list[Any]] = {}
    for trial in _counted(study):
        attempts.setdefault(origin(trial), []).append(trial)
    for number, tried in attempts.items():
        last, died = tried[-1], sum(not t.user_attrs.get("interrupted") for t in tried)
        if (
            all(t.state.name == "FAIL" for t in tried)
            and not last.user_attrs.get("final")
            and died < 2
        ):
            log(f"search: trial {number} died; its settings are tried again")
            study.enqueue_trial(last.params, user_attrs={"retry_of": number})
    waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    if waiting:
        return f"trial {origin(waiting[0])} of {trials}, again"
    return f"trial {len(attempts)} of {trials}, counted from 0" if len(attempts) < trials else None


def _counted(study: Any) -> list[Any]:
    """The trials without those that were one too many."""
    return [
        trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get("surplus")
    ]


def _alive(pid: int) -> bool:
    """Whether this machine has a process of this number that is not this one, which runs no other
    trial now.
    """
    if pid == os.getpid():
        return False
    if (
        os.name != "posix"
    ):  # where os.kill ends a process whatever the signal; silence tells of death there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _run_trial(
    trial: Any,
    config: Any,
    space: dict[str, Parameter],
    trials: int,
    *,
    prune: bool,
    log: Callable[[str], None],
) -> float:
    """The score of one trial."""
    import optuna

    if _too_many(trial, trials):
        trial.set_user_attr("surplus", True)
        raise InputError("another process was faster")
    trial.set_user_attr("host", socket.gethostname())
    trial.set_user_attr("pid", os.getpid())
    # Anew for every trial: a study that goes on proposes what it would have proposed, and two
    # processes never the same.
    trial.study.sampler = optuna.samplers.TPESampler(
        seed=config.seed * 100_003 + trial.number, multivariate=False, constant_liar=True
    )
    values = {name: parameter.sample(trial) for name, parameter in space.items()}
    folder = Path(config.run_dir) / f"trial_{origin(trial):04d}"
    log(f"search: {folder}: {', '.join(f'{name} {value}' for name, value in values.items())}")

    def watch(entry: dict[str, Any]) -> None:
        score = entry.get("val", {}).get(config.training.monitor)
        if score is not None and score == score:
            trial.report(score, entry["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

    with _noted(trial, log):
        mine = with_settings(config, values | {"run_dir": str(folder), "data.test": []})
        results = train(mine, on_epoch_end=watch if prune else None, **_beginning(folder))
        score = TASKS[type(mine)](mine).headline(results["val"])[config.training.monitor]
        if score != score:
            raise InputError(f"{config.training.monitor} is undefined on val")
        return score


@contextmanager
def _noted(trial: Any, log: Callable[[str], None]) -> Iterator[None]:
    """Write into the study how a trial ended, and how long it took."""
    started = time.perf_counter()
    try:
        yield
    except FAULTS as error:
        final = isinstance(error, InputError)  # another attempt would end with it too
        what = str(error) if final else f"{type(error).__name__}: {' '.join(str(error).split())}"
        trial.set_user_attr("error", what[:500])
        trial.set_user_attr("final", final)
        log(f"search: trial {trial.number} failed: {what}")
        raise
    except (KeyboardInterrupt, SystemExit):
        trial.set_user_attr("interrupted", True)
        raise
    finally:
        trial.set_user_attr("seconds", round(time.perf_counter() - started, 1))


def _too_many(trial: Any, trials: int) -> bool:
    """Whether another process has taken the last place, or this attempt: numbers tell who came
    first.
    """
    earlier = [t for t in _counted(trial.study) if t.number < trial.number]
    if "retry_of" in trial.user_attrs:
        return any(origin(t) == origin(trial) and t.state.name != "FAIL" for t in earlier)
    return len({origin(t) for t in earlier}) >= trials


def _beginning(folder: Path) -> dict[str, bool]:
    """How to begin a run in a folder where an earlier attempt may have left something."""
    if not (folder / "config.yaml").exists():
        return {}
    try:
        newest_complete(folder)
    except InputError:
        return {"overwrite": True}
    return {"resume": True}


def _stop_if_hopeless(study: Any) -> None:
    finished = [trial for trial in _counted(study) if trial.state.is_finished()]
    failed = [
        trial for trial in finished if trial.state.name == "FAIL" and "error" in trial.user_attrs
    ]
    if len(failed) == len(finished) and len(failed) >= GIVE_UP:
        raise InputError(
            f"{len(failed)} trials failed and none succeeded; the last:"
            f" {failed[-1].user_attrs['error']}"
        )
