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
    """Draw the mean over images of every seed (left), and the difference of each test image to the
    baseline with the interval of its mean (right).
    """
    from matplotlib.figure import Figure

    others = [name for name in variants if name != baseline]
    names = [baseline, *others]
    figure = Figure(figsize=(11, 1.6 + 0.55 * len(variants)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for place, name in enumerate(names):
        seeds = variants[name].by_seed
        color = "tab:gray" if name == baseline else f"C{place - 1}"
        left.plot(seeds, [place] * len(seeds), "o", color=color, alpha=0.6)
        left.plot([seeds.mean()], [place], "|", color="black", markersize=18, markeredgewidth=2)
    left.set(
        yticks=range(len(names)),
        yticklabels=names,
        xlabel=f"{score}, mean over images",
        title="every seed (dot) and their mean (bar)",
    )
    spread = np.random.default_rng(0)
    for place, name in enumerate(others):
        found = difference(variants[name], variants[baseline])
        right.plot(
            found.values,
            place + spread.uniform(-0.18, 0.18, len(found.values)),
            ".",
            color=f"C{place}",
            alpha=0.4,
        )
        right.plot([found.low, found.high], [place, place], color="black", linewidth=3)
        right.plot([found.mean], [place], "o", color="black", markersize=6)
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
    """Draw the test images on which the variants differ most: image, truth, and the errors of each
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
    chosen = [int(i) for i in np.argsort(-spread) if not np.isnan(spread[i])][:EXAMPLES]
    if not chosen:
        return None
    folder = open_data(config.data, log=lambda _: None)
    # Names in the tables are escaped.
    by_name = {
        safe_cell(sample.name): sample for sample in folder.samples(getattr(config.data, split))
    }
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
        for row, (image, truth, _, error, *_) in shown.items():
            cells[row] += [error] if cells[row] else [image, truth, error]
    titles = []
    for i in chosen:
        scores = ", ".join(f"{name} {first[name][i]:.3f}" for name in runs)
        titles.append(f"{names[i]}: {scores}")
    spec = folder.label_spec
    key = legend(spec.classes, spec.colors, sides=len(spec.classes) <= 2)
    return write_png(path, image_grid(cells, ["image", "truth", *runs], titles, legend=key))
