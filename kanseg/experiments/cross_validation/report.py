"""Write the summary of all folds: table.md, table.json, table.csv, folds.png and
scores_out_of_fold.csv.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.experiments.cross_validation.results import FoldRun, read_fold, sum_up
from kanseg.inference.checkpoint import CONFIG
from kanseg.training.run_folder.logging import plain
from kanseg.utils.command import command
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_yaml
from kanseg.utils.tables import csv_table, markdown_table
from kanseg.visualization.figures import save_figure
from kanseg.visualization.report.tables import flatten

# Scores that table and figure show, of the whole and of each class.
SEGMENTATION = ("foreground_iou", "foreground_dice", "mean_iou", "per_image.foreground_iou")
CLASSIFICATION = ("top1", "mean_recall", "mean_f1")
SEGMENTED_CLASS = ("iou", "dice")
CLASSIFIED_CLASS = ("recall", "f1")
MAX_DRAWN = 40  # classes in the figure
NOTE = (
    "out of fold: the {images} images of train and val, each scored by the network that was not"
    " trained on it. mean of folds: with the standard deviation over the\n{folds} folds, whose"
    " training images overlap, so that no interval follows from it. A fold without a score is left"
    " out of its mean."
)
SELECTED = (
    "The val images of a fold also chose the epoch of its weights, which makes these scores"
    " slightly too good. `--training.validate_every {epochs}` measures the last epoch."
)


def write_folds(
    folder: Path, runs: Sequence[Path], *, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Write and print the summary of the finished runs of all folds.

    Args:
        folder: for the files.
        runs: folders of the runs, in the order of the folds.
        log: called with each line of text.

    Returns:
        The summary, as of `sum_up`.
    """
    found = [read_fold(run) for run in runs]
    summary = sum_up(found)
    text = summary_text(summary)
    selected = _note_of_selection(runs[0])
    if selected is not None:
        text += f"\n\n{selected}"
    atomic_write_text(folder / "table.md", text + "\n")
    atomic_write_text(folder / "table.json", json.dumps(plain(summary), indent=1) + "\n")
    atomic_write_text(folder / "table.csv", summary_csv(summary))
    written = [folder / name for name in ("table.md", "table.json", "table.csv")]
    if is_segmentation(summary):
        written.append(folder / "scores_out_of_fold.csv")
        atomic_write_text(written[-1], images_csv(found))
    written.append(draw_folds(summary, folder / "folds.png"))
    log(f"\n{text}\n")
    log(f"folds: {', '.join(map(str, written))}")
    if is_segmentation(summary):  # predictions of several classifiers are not averaged
        best = shlex.join(str(run / "best") for run in runs)
        log(
            "folds: all networks together predict with\n  "
            f"{command('predict')} --checkpoint {best} --input IMAGES --output masks"
        )
    return summary


def summary_text(summary: Mapping[str, Any]) -> str:
    """Format the summary as Markdown: a table of the folds, a table of the classes, and notes."""
    note = NOTE.format(images=summary["out_of_fold"]["images"], folds=len(summary["folds"]))
    parts = [fold_table(summary), class_table(summary), note, *summary["warnings"]]
    return "\n\n".join(parts)


def fold_table(summary: Mapping[str, Any]) -> str:
    """Format a table with a row for each fold, their mean, and the scores out of fold."""
    over, folds, pooled = summary["over_folds"], summary["folds"], summary["out_of_fold"]
    names = SEGMENTATION if is_segmentation(summary) else CLASSIFICATION
    shown = [(split, name) for split in over for name in names]
    header = ["fold", "images", "epoch"]
    for split, name in shown:
        header.append(name if split == "val" else f"{split} {name}")
    rows = []
    for fold in folds:
        row = [str(fold["fold"]), str(fold["val"]["images"]), str(fold["best_epoch"])]
        for split, name in shown:
            row.append(_number(flatten(fold[split]).get(name)))
        rows.append(row)
    means = ["mean of folds", "", ""]
    whole = ["out of fold", str(pooled["images"]), ""]
    for split, name in shown:
        means.append(_spread_cell(flatten_spread(over[split]).get(name), len(folds)))
        whole.append(_number(flatten(pooled).get(name)) if split == "val" else "")
    return markdown_table(header, [*rows, means, whole])


def class_table(summary: Mapping[str, Any]) -> str:
    """Format a table with a row for each class: its scores as means of the folds, and out of
    fold.
    """
    over, pooled = summary["over_folds"]["val"]["classes"], summary["out_of_fold"]["classes"]
    shown = SEGMENTED_CLASS if is_segmentation(summary) else CLASSIFIED_CLASS
    header = ["class"]
    for name in shown:
        header += [f"{name}, mean of folds", f"{name}, out of fold"]
    rows = []
    for label in ordered_classes(summary):
        row = [label]
        for name in shown:
            row.append(_spread_cell(over[label].get(name), len(summary["folds"])))
            row.append(_number(pooled[label][name]))
        rows.append(row)
    return markdown_table(header, rows)


def is_segmentation(summary: Mapping[str, Any]) -> bool:
    """True for a summary of segmentation networks, False for classifiers."""
    return "mean_iou" in summary["out_of_fold"]


def ordered_classes(summary: Mapping[str, Any]) -> list[str]:
    """The names of the classes, a background last, as in the table of a run."""
    background = summary["out_of_fold"].get("background")
    return sorted(summary["out_of_fold"]["classes"], key=lambda label: label == background)


def summary_csv(summary: Mapping[str, Any]) -> str:
    """Format all scores as CSV: a row for each fold, for mean and standard deviation over the
    folds, and out of fold; a column for each score, such as val.mean_iou.
    """
    rows: list[dict[str, Any]] = []
    for fold in summary["folds"]:
        rows.append(flatten(fold))
    for key in ("mean", "std"):
        row: dict[str, Any] = {"fold": key}
        for split, scores in summary["over_folds"].items():
            for name, each in flatten_spread(scores).items():
                row[f"{split}.{name}"] = each[key]
        rows.append(row)
    pooled = {f"val.{name}": value for name, value in flatten(summary["out_of_fold"]).items()}
    rows.append({"fold": "out_of_fold", **pooled})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_cell(row.get(name)) for name in columns] for row in rows]
    return csv_table(columns, lines)


def images_csv(runs: Sequence[FoldRun]) -> str:
    """Format the scores of every image by the network that was not trained on it as CSV."""
    columns = list(runs[0].images[0])
    lines = []
    for fold, run in enumerate(runs):
        for image in run.images:
            lines.append([image["name"], fold, *(image[name] for name in columns[1:])])
    return csv_table([columns[0], "fold", *columns[1:]], lines)


def draw_folds(summary: Mapping[str, Any], path: Path) -> Path:
    """Draw each fold's scores of the whole and of each class, their mean, and the score out of
    fold.
    """
    from matplotlib.figure import Figure

    per_fold = [flatten(fold["val"]) for fold in summary["folds"]]
    pooled = flatten(summary["out_of_fold"])
    names, score = list(CLASSIFICATION), "f1"
    if is_segmentation(summary):
        names, score = list(SEGMENTATION), "iou"
    for label in ordered_classes(summary)[:MAX_DRAWN]:
        names.append(f"classes.{label}.{score}")
    figure = Figure(figsize=(8, 1.4 + 0.35 * len(names)), layout="constrained")
    axis = figure.subplots()
    for y, name in enumerate(names):
        values = _defined(scores.get(name) for scores in per_fold)
        axis.plot(values, [y] * len(values), "o", color="C0", alpha=0.6, label=_once("folds", y))
        if len(values):
            style = {"color": "black", "markersize": 16, "markeredgewidth": 2}
            axis.plot(values.mean(), y, "|", label=_once("mean of folds", y), **style)
        whole = _defined([pooled[name]])
        axis.plot(whole, [y] * len(whole), "D", color="C1", label=_once("out of fold", y))
    labels = []
    for name in names:
        label = name.removeprefix("classes.").replace(f".{score}", f", {score}")
        labels.append(label.replace("$", r"\$"))
    axis.set(yticks=range(len(names)), yticklabels=labels, xlabel="score on the val images")
    axis.set_title(f"{len(per_fold)} folds, {pooled['images']} images")
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)


def flatten_spread(scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dotted name -> {mean, std, folds} of everything in the nested result of `spread`."""
    flat: dict[str, dict[str, Any]] = {}
    for name, value in scores.items():
        if isinstance(value.get("folds"), int):
            flat[name] = value
        else:
            for inner, each in flatten_spread(value).items():
                flat[f"{name}.{inner}"] = each
    return flat


def _note_of_selection(run: Path) -> str | None:
    """Say that val selected the epoch; None if only the last epoch was validated."""
    training = read_yaml(run / CONFIG)["training"]
    if training["validate_every"] >= training["epochs"]:
        return None
    return SELECTED.format(epochs=training["epochs"])


def _once(label: str, y: int) -> str | None:
    """A label for the first row of the figure alone, so that the legend has it once."""
    return label if y == 0 else None


def _defined(values: Iterable[Any]) -> np.ndarray:
    """The values that are numbers."""
    numbers = [np.nan if value is None else value for value in values]
    found = np.array(numbers, dtype=float)
    return found[~np.isnan(found)]


def _number(value: float | None) -> str:
    """A score as text; a dash if it is undefined."""
    if value is None or np.isnan(value):
        return "-"
    return f"{value:.4f}"


def _spread_cell(each: Mapping[str, Any] | None, folds: int) -> str:
    """Mean ± standard deviation as text, with the number of folds if some have no score."""
    if each is None:
        return "-"
    text = f"{each['mean']:.4f}"
    if not np.isnan(each["std"]):
        text += f" ± {each['std']:.4f}"
    if each["folds"] < folds:
        text += f" ({each['folds']} folds)"
    return text


def _cell(value: Any) -> Any:
    """A value for a CSV table; empty if it is undefined."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return value
