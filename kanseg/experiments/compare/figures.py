"""The images of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kanseg.config import Config
from kanseg.data import SegmentationDataset, open_data, write_png
from kanseg.experiments.compare.statistics import VariantScores, difference
from kanseg.inference import Predictor
from kanseg.utils.text import safe_cell
from kanseg.visualization.figures import save_figure
from kanseg.visualization.image_grid import image_grid
from kanseg.visualization.panels import legend, predicted_cells

EXAMPLES = 6


def draw_comparison(
    variants: Mapping[str, VariantScores], baseline: str, path: Path, *, score: str
) -> Path:
    """Draw the mean over images of every seed (left), and the differences of the test images to the
    baseline with the interval of their mean (right).
    """
    from matplotlib.figure import Figure

    others = [name for name in variants if name != baseline]
    names = [baseline, *others]
    figure = Figure(figsize=(11, 1.6 + 0.55 * len(variants)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for y, name in enumerate(names):
        seeds = variants[name].by_seed
        color = "tab:gray" if name == baseline else f"C{y - 1}"
        left.plot(seeds, [y] * len(seeds), "o", color=color, alpha=0.6)
        left.plot([seeds.mean()], [y], "|", color="black", markersize=18, markeredgewidth=2)
    left.set(
        yticks=range(len(names)),
        yticklabels=names,
        xlabel=f"{score}, mean over images",
        title="every seed (dot) and their mean (bar)",
    )
    rng = np.random.default_rng(0)
    for y, name in enumerate(others):
        found = difference(variants[name], variants[baseline])
        jittered = y + rng.uniform(-0.18, 0.18, len(found.values))
        right.plot(found.values, jittered, ".", color=f"C{y}", alpha=0.4)
        right.plot([found.low, found.high], [y, y], color="black", linewidth=3)
        right.plot([found.mean], [y], "o", color="black", markersize=6)
    right.axvline(0, color="tab:gray", linewidth=1)
    right.set(
        yticks=range(len(others)),
        yticklabels=others,
        ylim=(-0.6, len(others) - 0.4),
        xlabel=f"{score} minus that of {baseline}",
    )
    right.set_title("every test image (dot), mean and its 95 % interval (black)")
    for axis in (left, right):
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
    return save_figure(figure, path)


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
    return write_png(path, image_grid(cells, ["image", "ground truth", *runs], titles, legend=key))
