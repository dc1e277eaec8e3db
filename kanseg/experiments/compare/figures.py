"""The images of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kanseg.config import Config
from kanseg.data import SegmentationDataset, open_data, write_png
from kanseg.experiments.compare.statistics import ArmScores, difference
from kanseg.inference import Predictor
from kanseg.utils.text import safe_cell
from kanseg.visualization.figures import save_figure
from kanseg.visualization.image_grid import comparison_sheet
from kanseg.visualization.panels import legend, predicted_cells

EXAMPLES = 6


def draw_comparison(arms: Mapping[str, ArmScores], control: str, path: Path, *, score: str) -> Path:
    """Left the mean over images of every seed; right how each test image differs from the
    control, with the interval of the mean.
    """
    from matplotlib.figure import Figure

    others = [name for name in arms if name != control]
    names = [control, *others]
    figure = Figure(figsize=(11, 1.6 + 0.55 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for place, name in enumerate(names):
        seeds, color = arms[name].by_seed, "tab:gray" if name == control else f"C{place - 1}"
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
        found = difference(arms[name], arms[control])
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
        xlabel=f"{score} minus that of {control}",
    )
    right.set_title("every test image (dot), mean and its 95 % interval (black)")
    for axis in (left, right):
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
    return save_figure(figure, path)


def draw_examples(
    config: Config,
    runs: Mapping[str, Path],
    arms: Mapping[str, ArmScores],
    path: Path,
    *,
    split: str,
) -> Path | None:
    """The test images on which the arms differ most: image, truth, and where each arm errs, with
    its score there; None where no score is defined.

    Args:
        config: of one of the runs, for the data.
        runs: arm -> the run whose weights are shown, that of its first seed.
        arms: scores of the same arms.
        path: of the PNG.
        split: "val" or "test".
    """
    first = {name: arm.images[0] for name, arm in arms.items()}
    spread = np.ptp(np.stack(list(first.values())), axis=0)
    chosen = [int(i) for i in np.argsort(-spread) if not np.isnan(spread[i])][:EXAMPLES]
    if not chosen:
        return None
    folder = open_data(config.data, log=lambda _: None)
    # The names of the arms are those of their tables.
    by_name = {
        safe_cell(sample.name): sample for sample in folder.samples(getattr(config.data, split))
    }
    names = next(iter(arms.values())).names
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
    titles = [
        f"{names[i]}: " + ", ".join(f"{name} {first[name][i]:.3f}" for name in runs) for i in chosen
    ]
    spec = folder.label_spec
    key = legend(spec.classes, spec.colors, sides=len(spec.classes) <= 2)
    return write_png(path, comparison_sheet(cells, ["image", "truth", *runs], titles, legend=key))
