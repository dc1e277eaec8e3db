"""Write the files of a search: a table of its trials, the best settings, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanseg.experiments.search.space import Parameter, with_settings
from kanseg.utils.io import atomic_write_text
from kanseg.utils.tables import csv_table
from kanseg.visualization.figures import save_figure

COLUMNS = 4  # of the figure


def write_results(study: Any, config: Any, space: Mapping[str, Parameter]) -> Path | None:
    """Write trials.csv, best.yaml and scores.png into the run folder.

    Returns:
        The path of best.yaml; None if no trial is complete.
    """
    run, monitor = Path(config.run_dir), config.training.monitor
    trials = counted_trials(study)
    atomic_write_text(run / "trials.csv", _trials_table(trials, list(space), monitor))
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        return None
    best = max(complete, key=lambda trial: trial.value)
    values: dict[str, Any] = {"run_dir": str(run / "best_run")}
    for name, parameter in space.items():
        values[name] = parameter.value(best.params[name])
    settings = with_settings(config, values)
    comment = (
        f"# {monitor} {best.value:.6g} on val in trial {origin(best)} of the search in {run}.\n"
    )
    atomic_write_text(run / "best.yaml", comment + settings.to_yaml())
    _draw(complete, best, list(space), monitor, run / "scores.png")
    return run / "best.yaml"


def counted_trials(study: Any) -> list[Any]:
    """The trials of a study, without surplus ones that two processes started at the same time."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if not trial.user_attrs.get("surplus")]


def origin(trial: Any) -> int:
    """Number of the first attempt with the settings of this trial."""
    return trial.user_attrs.get("retry_of", trial.number)


def _trials_table(trials: Sequence[Any], names: Sequence[str], monitor: str) -> str:
    """A CSV table with a row for each trial."""
    rows = []
    for trial in trials:
        row = [
            trial.number,
            trial.user_attrs.get("retry_of", ""),
            trial.state.name.lower(),
            trial.value if trial.state.name == "COMPLETE" else "",
            trial.user_attrs.get("seconds", ""),
        ]
        for name in names:
            row.append(trial.params.get(name, ""))
        row.append(trial.user_attrs.get("error", ""))
        rows.append(row)
    return csv_table(["trial", "attempt_of", "state", monitor, "seconds", *names, "error"], rows)


def _draw(trials: Sequence[Any], best: Any, names: Sequence[str], monitor: str, path: Path) -> None:
    """Draw the score of each complete trial against each setting; the best one is marked."""
    from matplotlib.figure import Figure

    rows, columns = -(-len(names) // COLUMNS), min(len(names), COLUMNS)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    scores = [trial.value for trial in trials]
    for axis, name in zip(axes.flat, names, strict=False):
        values = [trial.params[name] for trial in trials]
        marked = best.params[name]
        distribution = best.distributions[name]
        if not hasattr(distribution, "low"):
            values, marked = list(map(str, values)), str(marked)
            # Invisible points keep all choices on the axis, in their given order.
            choices = list(map(str, distribution.choices))
            axis.scatter(choices, [best.value] * len(choices), alpha=0)
        axis.scatter(values, scores, s=18, color="tab:blue", alpha=0.7)
        axis.scatter([marked], [best.value], s=60, marker="*", color="tab:red")
        axis.set_xlabel(name)
        if getattr(distribution, "log", False):
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"val {monitor}")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    save_figure(figure, path)
