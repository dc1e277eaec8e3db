"""Images of a segmentation network: samples with their predictions, the best and worst of a set,
and the confusion of its classes.
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
from kanseg.visualization.image_grid import MAX_CELL, image_grid

COLUMNS = ("image", "truth", "prediction", "error")
MAX_ERROR_COLUMNS = 3  # multilabel classes up to which each has an error column of its own
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
    """Draw samples with their predictions, galleries and the confusion matrix. Only the samples
    that are shown are predicted, each once.

    run/overview.png and run/samples/NAME.png: evenly chosen samples (image | truth | prediction |
    error) at the size that the network sees. With `per_image` also run/worst.png and run/best.png,
    by the mean IoU of the image, and run/confusion.png, of all pixels.

    Args:
        model: images (B, C, H, W) -> logits.
        dataset: without augmentation.
        run: folder.
        per_image: confusion matrices by index, as of `SegmentationMetrics`; None if nothing was
            measured.
        count: number of samples, and most rows of a gallery; 0 draws the confusion alone.
        tile: (h, w) above which images are predicted in tiles.
        device: of the model.

    Returns:
        The files, those to look at first in front; the last is the folder of samples.
    """
    confusion = []
    if per_image:
        path = run / "confusion.png"
        confusion.append(draw_pixel_confusion(per_image, dataset.label_spec.classes, path))
    if count < 1 or not len(dataset):
        return confusion
    chosen = evenly(range(len(dataset)), count)
    measured = image_scores(per_image or {})
    worst, best = extremes(measured, min(count, GALLERY_ROWS))
    cells = predicted_cells(model, dataset, {*chosen, *worst, *best}, tile=tile, device=device)

    def draw(path: Path, indices: Sequence[int], max_cell: int) -> Path:
        names = [_caption(dataset.samples[i].name, measured.get(i)) for i in indices]
        rows = [cells[i] for i in indices]
        classes, colors = dataset.label_spec.classes, dataset.label_spec.colors
        return write_png(path, sample_grid(rows, names, classes, colors, max_cell=max_cell))

    written = [draw(run / "overview.png", evenly(chosen, OVERVIEW_ROWS), MAX_CELL)]
    for name, indices in (("worst", worst), ("best", best)):
        if indices:
            written.append(draw(run / f"{name}.png", indices, GALLERY_CELL))
    for index in chosen:
        draw(run / "samples" / f"{dataset.samples[index].name}.png", [index], MAX_CELL)
    return [*written, *confusion, run / "samples"]


def _caption(name: str, score: float | None) -> str:
    if score is None:
        return name
    if np.isnan(score):
        return f"{name}   no class to score"
    return f"{name}   mean IoU {score:.3f}"


@torch.no_grad()
def predicted_cells(
    model: nn.Module,
    dataset: SegmentationDataset,
    indices: Iterable[int],
    *,
    tile: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> dict[int, list[np.ndarray]]:
    """index -> `sample_cells` of some samples, predicted one by one."""
    was_training = model.training
    model.eval()
    cells = {}
    for index in sorted(set(indices)):
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


def image_scores(per_image: Mapping[int, np.ndarray]) -> dict[int, float]:
    """Confusion matrices of images, (N, N) or multilabel (N, 2, 2) -> their mean IoU over the
    classes that occur; NaN if none does.
    """
    result = {}
    for index, matrix in per_image.items():
        iou = scores(np.asarray(matrix))["iou"]
        if iou.ndim == 2:  # multilabel: that of absence and of presence
            iou = iou[:, 1]
        known = iou[~np.isnan(iou)]
        result[int(index)] = float(known.mean()) if known.size else float("nan")
    return result


def extremes(measured: Mapping[int, float], count: int) -> tuple[list[int], list[int]]:
    """The indices of the worst (the worst first) and of the best (the best first). NaN is left
    out; an index is in both only if it is the only one.
    """
    known = [(score, index) for index, score in measured.items() if not np.isnan(score)]
    order = [index for _, index in sorted(known)]
    count = min(count, max(1, len(order) // 2))
    return order[:count], order[::-1][:count]


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
    is_multilabel = truth.ndim == 3 and len(truth) > 1
    ignored = ignored_color(colors)
    has_sides = not is_multilabel and len(colors) <= 2
    errors = [error_map(image, truth, predicted, sides=has_sides, ignored_in=ignored)]
    if is_multilabel and len(truth) <= MAX_ERROR_COLUMNS:
        for mask, found in zip(truth, predicted, strict=True):
            errors.append(error_map(image, mask, found, sides=True, ignored_in=ignored))
    return [image, colorize(truth, colors), colorize(predicted, colors), *errors]


def sample_grid(
    rows: Sequence[Sequence[np.ndarray]],
    names: Sequence[str],
    classes: Sequence[str],
    colors: Sequence[Color],
    *,
    max_cell: int = MAX_CELL,
) -> np.ndarray:
    """Rows of `sample_cells` with a legend of the classes and errors, as of `image_grid`:
    (H, W, 3) uint8.
    """
    columns = list(COLUMNS)
    has_sides = len(classes) <= 2
    if len(rows[0]) > len(COLUMNS):
        columns += [f"error: {name}" for name in classes]
        has_sides = True
    key = legend(classes, colors, sides=has_sides)
    return image_grid(rows, columns, names, legend=key, max_cell=max_cell)


def legend(
    classes: Sequence[str], colors: Sequence[Color], *, sides: bool
) -> list[tuple[str, Color]]:
    """(name, color) of the classes and errors. With `sides`, pixels that were made up (false
    positives) and missed (false negatives) have different colors.
    """
    entries = list(zip(classes, colors, strict=False))
    if sides:
        entries += [("made up", WRONG), ("missed", MISSED)]
    else:
        entries.append(("wrong", WRONG))
    return [*entries, ("ignored", ignored_color(colors))]


def evenly(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of the indices, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
    return [indices[place] for place in dict.fromkeys(places.tolist())]
