"""The images of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.config import Config
from kanseg.data import SegmentationDataset, open_data, write_png
from kanseg.experiments.compare.statistics import (
    VariantScores,
    difference,
    mean_interval,
    seeds_text,
)
from kanseg.inference import Predictor
from kanseg.utils.text import safe_cell
from kanseg.visualization.figures import save_figure
from kanseg.visualization.fonts import figure_text
from kanseg.visualization.image_grid import image_grid
from kanseg.visualization.panels import legend, predicted_cells

EXAMPLES = 6


def draw_comparison(
    rows: Sequence[Mapping[str, Any]],
    variants: Mapping[str, VariantScores],
    path: Path,
    *,
    score: str,
) -> Path:
    """Draw the mean over images of every seed, the differences of the seeds to the baseline, and
    those of the test images, each with the mean and its 95 % interval.

    Args:
        rows: of `comparison_rows`, the baseline first.
        variants: scores of the same variants.
        path: of the PNG.
        score: its name.
    """
    from matplotlib.figure import Figure

    baseline, *others = rows
    figure = Figure(figsize=(16, 1.6 + 0.55 * len(rows)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for y, row in enumerate(rows):
        color = "tab:gray" if y == 0 else f"C{y - 1}"
        seeds = np.array(row["by_seed"])
        _draw_row(left, y, seeds, vars(mean_interval(seeds)), color=color)
    left.set(
        yticks=range(len(rows)),
        yticklabels=[row["variant"] for row in rows],
        xlabel=f"{score}, mean over images",
        ylim=(-0.6, len(rows) - 0.4),
        title="every seed, mean, 95 % over seeds",
    )
    rng = np.random.default_rng(0)
    labels = []
    for y, row in enumerate(others):
        seeds = np.array(row["difference_by_seed"])
        images = difference(variants[row["variant"]], variants[baseline["variant"]]).by_image
        _draw_row(middle, y, seeds, row["over_seeds"], color=f"C{y}")
        shifts = rng.uniform(-0.18, 0.18, len(images))
        _draw_row(right, y, images, row["over_images"], color=f"C{y}", shifts=shifts)
        labels.append(f"{row['variant']} ({seeds_text(len(seeds))})")
    known = any(len(row["difference_by_seed"]) > 1 for row in others)
    middle.set_title("every seed, mean, 95 % over seeds" if known else "one seed: no interval")
    right.set_title("every image, mean, 95 % over images\n(these trained networks alone)")
    for axis, names in ((middle, labels), (right, [row["variant"] for row in others])):
        axis.axvline(0, color="tab:gray", linewidth=1)
        axis.set(
            yticks=range(len(others)),
            yticklabels=names,
            ylim=(-0.6, len(others) - 0.4),
            xlabel=f"{score} minus that of {baseline['variant']}",
        )
    for axis in (left, middle, right):
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
    return save_figure(figure, path)


def _draw_row(
    axis: Any,
    y: float,
    values: np.ndarray,
    interval: Mapping[str, float],
    *,
    color: str,
    shifts: np.ndarray | float = 0.0,
) -> None:
    """Draw values as dots on a line of the figure, their mean, and its interval if it is known."""
    if not len(values):
        return
    axis.plot(values, np.full(len(values), y) + shifts, "o", color=color, alpha=0.5, markersize=4)
    mean = float(values.mean())
    if not np.isnan(interval["low"]):
        reach = [[mean - interval["low"]], [interval["high"] - mean]]
        axis.errorbar(mean, y, xerr=reach, color="black", capsize=4, linewidth=2)
    axis.plot(mean, y, "|", color="black", markersize=16, markeredgewidth=2)


def draw_examples(
    config: Config,
    runs: Mapping[str, Path],
    variants: Mapping[str, VariantScores],
    path: Path,
    *,
    split: str,
) -> Path | None:
    """Draw the test images on which the variants differ most: image, mask, and the errors of each
    variant with its score. None if no score is defined.

    Args:
        config: of one of the runs, for the data.
        runs: variant -> the run whose weights are shown, that of its first seed.
        variants: scores of the same variants.
        path: of the PNG.
        split: "val" or "test".
    """
    first = {name: variant.images[0] for name, variant in variants.items()}
    spread = np.ptp(np.stack(list(first.values())), axis=0)
    num_defined = int((~np.isnan(spread)).sum())
    chosen = np.argsort(-spread)[: min(EXAMPLES, num_defined)].tolist()  # NaN comes last
    if not chosen:
        return None
    folder = open_data(config.data, log=lambda _: None)
    by_name = {}
    for sample in folder.samples(getattr(config.data, split)):
        by_name[safe_cell(sample.name)] = sample  # as the name is escaped in the tables
    names = next(iter(variants.values())).names
    samples = [by_name[names[i]] for i in chosen]
    cells: list[list[np.ndarray]] = [[] for _ in samples]
    for run in runs.values():
        predictor = Predictor.from_checkpoint(run)
        dataset = SegmentationDataset(samples, folder.label_spec, predictor.preprocess)
        shown = predicted_cells(
            predictor.model,
            dataset,
            range(len(samples)),
            tile=predictor.tile,
            device=predictor.device,
        )
        for row, (image, target, _, error, *_) in shown.items():
            if not cells[row]:
                cells[row] += [image, target]
            cells[row].append(error)
    titles = []
    for i in chosen:
        scores = [f"{name} {first[name][i]:.3f}" for name in runs]
        titles.append(f"{names[i]}: {', '.join(scores)}")
    spec = folder.label_spec
    key = legend(spec.classes, spec.colors, sides=len(spec.classes) <= 2)
    columns = [figure_text("image"), figure_text("ground truth"), *runs]
    return write_png(path, image_grid(cells, columns, titles, legend=key))
