"""What a search leaves: a table of its trials, the best settings, and scores against settings as a
image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanseg.experiments.search.space import Parameter, with_settings
from kanseg.utils.io import atomic_write_text
from kanseg.utils.text import safe_cell
from kanseg.visualization.figures import save_figure

COLUMNS = 4  # of the image


def write_results(study: Any, config: Any, space: Mapping[str, Parameter]) -> Path | None:
    """trials.csv, best.yaml and scores.png in the run folder; the path of the best settings, or
    None while no trial is complete.
    """
    run, monitor = Path(config.run_dir), config.training.monitor
    trials = [
        trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get("surplus")
    ]
    atomic_write_text(run / "trials.csv", _table(trials, list(space), monitor))
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        return None
    best = max(complete, key=lambda trial: trial.value)
    chosen = {name: parameter.value(best.params[name]) for name, parameter in space.items()}
    settings = with_settings(config, chosen | {"run_dir": str(run / "best_run")})
    atomic_write_text(
        run / "best.yaml",
        f"# {monitor} {best.value:.6g} on val in trial {origin(best)} of the search in"
        f" {run}.\n{settings.to_yaml()}",
    )
    _draw(complete, best, list(space), monitor, run / "scores.png")
    return run / "best.yaml"


def origin(trial: Any) -> int:
    """Number of the trial whose settings this one has: another one's where this is a further
    attempt.
    """
    return trial.user_attrs.get("retry_of", trial.number)


def _table(trials: list[Any], names: list[str], monitor: str) -> str:
    """A line a trial: number, whose further attempt it is, state, score, seconds, the sampled
    settings, why it failed.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "attempt_of", "state", monitor, "seconds", *names, "error"])
    for trial in trials:
        notes = trial.user_attrs
        values = [trial.params.get(name, "") for name in names]
        score = "" if trial.state.name != "COMPLETE" else trial.value
        writer.writerow(
            [
                trial.number,
                notes.get("retry_of", ""),
                trial.state.name.lower(),
                score,
                notes.get("seconds", ""),
                *(safe_cell(value) for value in values),
                safe_cell(notes.get("error", "")),
            ]
        )
    return text.getvalue()


def _draw(trials: list[Any], best: Any, names: list[str], monitor: str, path: Path) -> None:
    """The score of each complete trial against each setting; the best one is marked."""
    from matplotlib.figure import Figure

    rows, columns = -(-len(names) // COLUMNS), min(len(names), COLUMNS)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis, name in zip(axes.flat, names, strict=False):
        distribution = best.distributions[name]
        value = (
            (lambda t, n=name: t.params[n])
            if hasattr(distribution, "low")
            else (lambda t, n=name: str(t.params[n]))
        )
        if not hasattr(distribution, "low"):  # all choices, in the order in which they were given
            axis.scatter(
                [str(choice) for choice in distribution.choices],
                [best.value] * len(distribution.choices),
                alpha=0,
            )
        axis.scatter(
            [value(t) for t in trials], [t.value for t in trials], s=18, color="tab:blue", alpha=0.7
        )
        axis.scatter([value(best)], [best.value], s=60, marker="*", color="tab:red")
        axis.set(
            xlabel=name, xscale="log" if getattr(distribution, "log", False) else axis.get_xscale()
        )
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"val {monitor}")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    save_figure(figure, path)
