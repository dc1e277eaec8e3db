"""Images that a person can look at, of a segmentation network: sample panels, galleries of its
best and worst, the confusion of its classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kanseg.data import SegmentationDataset, read_sample_image, write_png
from kanseg.data.label_spec import Color
from kanseg.data.overlay import MISSED, WRONG, colorize, error_map, ignored_color, viewable
from kanseg.evaluation.segmentation import predict_labels
from kanseg.metrics import scores
from kanseg.visualization.confusion import draw_pixel_confusion
from kanseg.visualization.image_grid import LARGEST, comparison_sheet

COLUMNS = ("image", "truth", "prediction", "error")
SINGLE = 3  # classes of a multilabel task up to which each has an error column of its own
OVERVIEW, GALLERY, GALLERY_CELL = 4, 6, 320


def draw_results(
    model: nn.Module,
    dataset: SegmentationDataset,
    run: Path,
    *,
    per_image: Mapping[int, np.ndarray] | None = None,
    count: int,
    tile: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> list[Path]:
    """Everything that a data set shows of a network; each image is predicted at most once, and
    only those that are shown.

    run/overview.png and run/samples/NAME.png: evenly chosen samples (image | truth | prediction |
    error) at the size that the network sees. With `per_image` also run/worst.png and run/best.png,
    by the mean IoU of the image, and run/confusion.png, of all pixels.

    Args:
        model: images (B, C, H, W) -> logits.
        dataset: without augmentation.
        run: folder.
        per_image: confusion matrices by index, as of `SegmentationMetrics`; None where nothing was
            measured.
        count: samples, and at most so many rows in a gallery; 0 draws the confusion alone.
        tile: (h, w) beyond which images are predicted in tiles.
        device: of the model.

    Returns:
        The files, the ones to look at first in front; the last is the folder of samples.
    """
    written = (
        [draw_pixel_confusion(per_image, dataset.info.classes, run / "confusion.png")]
        if per_image
        else []
    )
    if count < 1 or not len(dataset):
        return written
    chosen = evenly(range(len(dataset)), count)
    measured = image_scores(per_image or {})
    worst, best = extremes(measured, min(count, GALLERY))
    cells = predicted_cells(model, dataset, {*chosen, *worst, *best}, tile=tile, device=device)

    def caption(index: int) -> str:
        score = measured.get(index)
        text = (
            ""
            if score is None
            else "   no class to score"
            if np.isnan(score)
            else f"   mean IoU {score:.3f}"
        )
        return dataset.samples[index].name + text

    def draw(path: Path, indices: Sequence[int], largest: int) -> Path:
        rows, names = [cells[i] for i in indices], [caption(i) for i in indices]
        return write_png(
            path, sheet(rows, names, dataset.info.classes, dataset.info.colors, largest=largest)
        )

    for index in chosen:
        draw(run / "samples" / f"{dataset.samples[index].name}.png", [index], LARGEST)
    galleries = [
        draw(run / f"{name}.png", indices, GALLERY_CELL)
        for name, indices in (("worst", worst), ("best", best))
        if indices
    ]
    return [
        draw(run / "overview.png", evenly(chosen, OVERVIEW), LARGEST),
        *galleries,
        *written,
        run / "samples",
    ]


@torch.no_grad()
def predicted_cells(
    model: nn.Module,
    dataset: SegmentationDataset,
    indices: Iterable[int],
    *,
    tile: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> dict[int, list[np.ndarray]]:
    """The `sample_cells` of some samples by their index, predicted one by one."""
    was_training, cells = model.training, {}
    model.eval()
    for index in sorted(set(indices)):
        item, sample = dataset[index], dataset.samples[index]
        predicted = (
            predict_labels(
                model, item["image"][None].to(device), tile, task=dataset.info.task, batch_size=4
            )[0]
            .cpu()
            .numpy()
        )
        image = dataset.preprocess.scale(read_sample_image(sample), name=str(sample.image))
        cells[index] = sample_cells(
            viewable(image), item["mask"].numpy(), predicted, dataset.info.colors
        )
    model.train(was_training)
    return cells


def image_scores(per_image: Mapping[int, np.ndarray]) -> dict[int, float]:
    """Confusion matrices of images, (N, N) or multilabel (N, 2, 2) -> their mean IoU over the
    classes that occur; NaN where none does.
    """
    result = {}
    for index, matrix in per_image.items():
        iou = scores(np.asarray(matrix))["iou"]
        iou = iou[:, 1] if iou.ndim == 2 else iou
        result[int(index)] = (
            float(np.mean(iou[~np.isnan(iou)])) if not np.isnan(iou).all() else float("nan")
        )
    return result


def extremes(measured: Mapping[int, float], count: int) -> tuple[list[int], list[int]]:
    """The indices of the worst (the worst first) and of the best (the best first), NaN left out;
    none is both unless it is the only one.
    """
    order = sorted(
        (index for index, score in measured.items() if not np.isnan(score)),
        key=lambda index: (measured[index], index),
    )
    shown = min(count, max(1, len(order) // 2))
    return order[:shown], order[::-1][:shown]


def sample_cells(
    image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, colors: Sequence[Color]
) -> list[np.ndarray]:
    """The images of a sample, (H, W, 3) uint8 each: those of COLUMNS, and for multilabel with two
    or three classes the error of each.

    Args:
        image: (H, W, 3) uint8.
        truth, predicted: (H, W) class indices, or (N, H, W) of 0 and 1 (multilabel); 255 in the
        truth is ignored.
        colors: an RGB color per class.
    """
    several = truth.ndim == 3 and len(truth) > 1
    void = ignored_color(colors)
    error = error_map(
        image, truth, predicted, sides=not several and len(colors) <= 2, ignored_in=void
    )
    single = zip(truth, predicted, strict=True) if several and len(truth) <= SINGLE else ()
    errors = [error, *(error_map(image, t, p, sides=True, ignored_in=void) for t, p in single)]
    return [image, colorize(truth, colors), colorize(predicted, colors), *errors]


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    names: Sequence[str],
    classes: Sequence[str],
    colors: Sequence[Color],
    *,
    largest: int = LARGEST,
) -> np.ndarray:
    """Rows of `sample_cells` with a legend of the classes and of what the errors mean: (H, W, 3)
    uint8, as of `comparison_sheet`.
    """
    single = len(rows[0]) > len(COLUMNS)
    titles = [*COLUMNS, *(f"error: {name}" for name in classes)] if single else COLUMNS
    return comparison_sheet(
        rows,
        titles,
        names,
        legend=legend(classes, colors, sides=len(classes) <= 2 or single),
        largest=largest,
    )


def legend(
    classes: Sequence[str], colors: Sequence[Color], *, sides: bool
) -> list[tuple[str, Color]]:
    """What the colors mean, of classes and of errors, which tell what was made up from what was
    missed where they have `sides`.
    """
    wrong = [("made up", WRONG), ("missed", MISSED)] if sides else [("wrong", WRONG)]
    return [*zip(classes, colors, strict=False), *wrong, ("ignored", ignored_color(colors))]


def evenly(indices: Sequence[int], count: int) -> list[int]:
    """At most so many of the indices, evenly chosen, the first and the last among them."""
    return [
        indices[i]
        for i in sorted(
            {int(i) for i in np.linspace(0, len(indices) - 1, min(count, len(indices)))}
        )
    ]
