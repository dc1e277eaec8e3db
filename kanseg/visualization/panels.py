"""Figures of a segmentation network: samples with their predictions, the best and worst images of
a set, and the confusion matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kanseg.data import SegmentationDataset, read_sample_image, write_png
from kanseg.data.label_spec import Color, foreground_classes
from kanseg.data.overlay import MISSED, WRONG, colorize, error_map, ignored_color, viewable
from kanseg.evaluation.segmentation import predict_labels
from kanseg.metrics.confusion import mean, scores
from kanseg.utils.iteration import progress_bar
from kanseg.visualization.confusion import draw_pixel_confusion
from kanseg.visualization.fonts import figure_text
from kanseg.visualization.image_grid import MAX_CELL, image_grid

MAX_ERROR_COLUMNS = 3  # with more multilabel classes there is one error column for all
OVERVIEW_ROWS, GALLERY_ROWS, GALLERY_CELL = 4, 6, 320


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
    """Draw samples with their predictions, the worst and best images, and the confusion matrix.

    Writes run/overview.png and run/samples/NAME.png: evenly spaced samples (image | ground truth
    | prediction | error) at the network's input size. With `per_image` also run/worst.png and
    run/best.png, by the IoU of the image without a background, and run/confusion.png, over all
    pixels. Each sample that is shown is predicted once.

    Args:
        model: images (B, C, H, W) -> logits.
        dataset: without augmentation.
        run: folder.
        per_image: confusion matrices by index, as of `SegmentationMetrics`; None if nothing was
            measured.
        count: number of samples, and at most so many of the worst and best images; 0 draws the
            confusion matrix only.
        tile: (h, w) above which images are predicted in tiles.
        device: of the model.

    Returns:
        The files, the most informative first; the last is the folder of samples.
    """
    spec = dataset.label_spec
    confusion = []
    if per_image:
        confusion.append(draw_pixel_confusion(per_image, spec.classes, run / "confusion.png"))
    if count < 1 or not len(dataset):
        return confusion
    chosen = evenly(range(len(dataset)), count)
    ious = image_scores(per_image or {}, foreground_classes(spec.classes, spec.task))
    worst, best = extremes(ious, min(count, GALLERY_ROWS))
    cells = predicted_cells(model, dataset, {*chosen, *worst, *best}, tile=tile, device=device)

    def draw(path: Path, indices: Sequence[int], max_cell: int) -> Path:
        rows, captions = [], []
        for index in indices:
            rows.append(cells[index])
            caption = dataset.samples[index].name
            if index in ious and np.isnan(ious[index]):
                caption += "   no object in mask or prediction"
            elif index in ious:
                caption += f"   IoU {ious[index]:.3f}"
            captions.append(caption)
        grid = sample_grid(rows, captions, spec.classes, spec.colors, max_cell=max_cell)
        return write_png(path, grid)

    written = [draw(run / "overview.png", evenly(chosen, OVERVIEW_ROWS), MAX_CELL)]
    for name, indices in (("worst", worst), ("best", best)):
        if indices:
            written.append(draw(run / f"{name}.png", indices, GALLERY_CELL))
    for index in chosen:
        draw(run / "samples" / f"{dataset.samples[index].name}.png", [index], MAX_CELL)
    return [*written, *confusion, run / "samples"]


@torch.no_grad()
def predicted_cells(
    model: nn.Module,
    dataset: SegmentationDataset,
    indices: Iterable[int],
    *,
    tile: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> dict[int, list[np.ndarray]]:
    """Predict some samples one by one: index -> `sample_cells`."""
    was_training = model.training
    model.eval()
    cells = {}
    for index in progress_bar(sorted(set(indices)), title="draw", unit="image"):
        item, sample = dataset[index], dataset.samples[index]
        images = item["image"][None].to(device)
        labels = predict_labels(model, images, tile, task=dataset.label_spec.task, batch_size=4)
        image = dataset.preprocess.scale(read_sample_image(sample), name=str(sample.image))
        cells[index] = sample_cells(
            viewable(image),
            item["mask"].numpy(),
            labels[0].cpu().numpy(),
            dataset.label_spec.colors,
        )
    model.train(was_training)
    return cells


def image_scores(
    per_image: Mapping[int, np.ndarray], foreground: Sequence[int]
) -> dict[int, float]:
    """Mean IoU of each image over the foreground classes that occur in it; NaN if none does.

    Args:
        per_image: confusion matrices by index, (N, N) or multilabel (N, 2, 2).
        foreground: indices of the classes that count.
    """
    result = {}
    for index, matrix in per_image.items():
        iou = scores(np.asarray(matrix))["iou"]
        if iou.ndim == 2:  # multilabel: columns are the absence and presence of a class
            iou = iou[:, 1]
        result[int(index)] = mean(iou[list(foreground)])
    return result


def extremes(measured: Mapping[int, float], count: int) -> tuple[list[int], list[int]]:
    """Indices of the worst images, the worst first, and of the best, the best first. NaN is left
    out; an image is in both lists only if it is the only one.
    """
    known = [index for index, score in measured.items() if not np.isnan(score)]
    order = sorted(known, key=lambda index: (measured[index], index))
    count = min(count, max(1, len(order) // 2))
    return order[:count], order[::-1][:count]


def sample_cells(
    image: np.ndarray, target: np.ndarray, predicted: np.ndarray, colors: Sequence[Color]
) -> list[np.ndarray]:
    """Draw image, ground truth, prediction and error of a sample, (H, W, 3) uint8 each; for
    multilabel with two or three classes also the error of each class.

    Args:
        image: (H, W, 3) uint8.
        target, predicted: (H, W) class indices, or (N, H, W) of 0 and 1 (multilabel); 255 in the
            target is ignored.
        colors: an RGB color per class.
    """
    is_multilabel = target.ndim == 3 and len(target) > 1
    ignored = ignored_color(colors)
    has_sides = not is_multilabel and len(colors) <= 2
    errors = [error_map(image, target, predicted, sides=has_sides, ignored_in=ignored)]
    if is_multilabel and len(target) <= MAX_ERROR_COLUMNS:
        for class_target, class_predicted in zip(target, predicted, strict=True):
            error = error_map(image, class_target, class_predicted, sides=True, ignored_in=ignored)
            errors.append(error)
    return [image, colorize(target, colors), colorize(predicted, colors), *errors]


def sample_grid(
    rows: Sequence[Sequence[np.ndarray]],
    names: Sequence[str],
    classes: Sequence[str],
    colors: Sequence[Color],
    *,
    max_cell: int = MAX_CELL,
) -> np.ndarray:
    """Draw rows of `sample_cells` with a legend of the classes and errors: (H, W, 3) uint8."""
    columns = [
        figure_text("image"),
        figure_text("ground truth"),
        figure_text("prediction"),
        figure_text("error"),
    ]
    has_sides = len(classes) <= 2
    if len(rows[0]) > len(columns):
        columns += [figure_text("error: {name}", name=name) for name in classes]
        has_sides = True
    key = legend(classes, colors, sides=has_sides)
    return image_grid(rows, columns, names, legend=key, max_cell=max_cell)


def legend(
    classes: Sequence[str], colors: Sequence[Color], *, sides: bool
) -> list[tuple[str, Color]]:
    """(name, color) of the classes and errors. With `sides`, false positives and false negatives
    have different colors.
    """
    entries = list(zip(classes, colors, strict=False))
    if sides:
        entries.append((figure_text("false positive"), WRONG))
        entries.append((figure_text("false negative"), MISSED))
    else:
        entries.append((figure_text("wrong"), WRONG))
    return [*entries, (figure_text("ignored"), ignored_color(colors))]


def evenly(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of the indices, evenly spaced, the first and the last included."""
    positions = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
    return [indices[position] for position in dict.fromkeys(positions.tolist())]
