"""Scores of masks, over the whole set and per image, from pixel counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from torch import Tensor

from kanseg.data.label_spec import IGNORE_INDEX, foreground_classes
from kanseg.metrics.calibration import Calibration, calibrations
from kanseg.metrics.confusion import confusion_matrices, divide, mean, outcomes, scores
from kanseg.metrics.surfaces import SURFACE_SCORES, SurfaceOptions, boundary_counts, surface_scores
from kanseg.metrics.u_kan import u_kan_scores
from kanseg.utils.errors import InputError

FOREGROUND_SCORES = ("iou", "dice")  # also given as mean over the classes but a background


@dataclass(frozen=True)
class ImageCounts:
    """Counts of one image, from which every score is computed.

    Args:
        confusion: (N, N) int64, target by rows; of a multilabel task (N, 2, 2).
        calibration: None without probabilities.
        surfaces: (N, 4): SURFACE_SCORES by class, NaN for a background; None if not requested.
        boundaries: (N, 2) int64: pixels in the intersection and union of the boundaries; None if
            not requested.
    """

    confusion: np.ndarray
    calibration: Calibration | None = None
    surfaces: np.ndarray | None = None
    boundaries: np.ndarray | None = None


class SegmentationMetrics:
    """Scores of a set of images, independent of batch size, order and number of processes.

    Scores of a class that occurs neither in the target nor in the prediction (iou, dice, surfaces),
    and quotients with a denominator of 0 (precision, recall, specificity), are NaN and left out of
    means. `absent` counts the images in which a class occurs in neither.

    Args:
        classes: names, index 0 first.
        task: "binary", "multiclass" or "multilabel".
        surface: options of surface distances and boundary IoU, measured for all classes but a
            background; None to leave them out.
    """

    def __init__(
        self,
        classes: Sequence[str],
        task: str = "multiclass",
        *,
        surface: SurfaceOptions | None = None,
    ):
        self.classes, self.multilabel, self.surface = tuple(classes), task == "multilabel", surface
        self.foreground = foreground_classes(self.classes, task)
        self.per_image: dict[int, ImageCounts] = {}

    @property
    def background(self) -> str | None:
        """Name of the background class; None if there is none."""
        return None if 0 in self.foreground else self.classes[0]

    def update(
        self,
        predicted: Tensor,
        target: Tensor,
        indices: Sequence[int] | None = None,
        *,
        probabilities: Tensor | None = None,
        spacings: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Add images.

        Args:
            predicted, target: (B, H, W) class indices, or of a multilabel task (B, N, H, W) of 0
                and 1; 255 in the target is ignored.
            indices: number of each image; by default counted on.
            probabilities: (B, N, H, W) of all classes, for the calibration error.
            spacings: (row, column) distance of neighboring pixels of each image; by default
                those of `surface`.
        """
        count = len(target)
        if indices is None:
            indices = range(len(self.per_image), len(self.per_image) + count)
        matrices = confusion_matrices(predicted, target, len(self.classes)).cpu().numpy()
        calibration = [None] * count
        if probabilities is not None:
            calibration = calibrations(probabilities, target)
        surfaces, boundaries = [None] * count, [None] * count
        if self.surface is not None:
            if spacings is None:
                spacings = [self.surface.spacing or (1.0, 1.0)] * count
            predicted, target = predicted.cpu().numpy(), target.cpu().numpy()
            for i, spacing in enumerate(spacings):
                surfaces[i], boundaries[i] = self._surfaces(predicted[i], target[i], spacing)
        for index, *counts in zip(
            indices, matrices, calibration, surfaces, boundaries, strict=True
        ):
            self.per_image[int(index)] = ImageCounts(*counts)

    def _surfaces(
        self, predicted: np.ndarray, target: np.ndarray, spacing: Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """`ImageCounts.surfaces` and `.boundaries` of one image."""
        surfaces = np.full((len(self.classes), len(SURFACE_SCORES)), np.nan)
        boundaries = np.zeros((len(self.classes), 2), np.int64)
        for c in self.foreground:
            if self.multilabel:
                ours, theirs, valid = predicted[c] == 1, target[c] == 1, target[c] != IGNORE_INDEX
            else:
                ours, theirs, valid = predicted == c, target == c, target != IGNORE_INDEX
            found = surface_scores(
                ours, theirs, valid, spacing=spacing, tolerance=self.surface.tolerance
            )
            surfaces[c] = [found[name] for name in SURFACE_SCORES]
            boundaries[c] = boundary_counts(ours, theirs, valid)
        return surfaces, boundaries

    def merge(self, other: Mapping[int, ImageCounts]) -> None:
        """Add the images of another process."""
        self.per_image.update(other)

    @property
    def images(self) -> list[ImageCounts]:
        """Counts of the images, sorted by number."""
        return [self.per_image[index] for index in sorted(self.per_image)]

    @property
    def matrices(self) -> np.ndarray:
        """Confusion matrices (images, N, N) int64, of a multilabel task (images, N, 2, 2)."""
        count = len(self.classes)
        if self.per_image:
            return np.stack([image.confusion for image in self.images])
        if self.multilabel:
            return np.zeros((0, count, 2, 2), np.int64)
        return np.zeros((0, count, count), np.int64)

    def image_scores(self) -> dict[str, np.ndarray]:
        """Scores of each image: iou, dice, ... -> (images, N); with surfaces also hd95, hd, assd,
        nsd, boundary_iou.
        """
        found = scores(self.matrices, multilabel=self.multilabel)
        if self.surface is not None:
            shape = (len(self.per_image), len(self.classes))
            surfaces = np.array([image.surfaces for image in self.images])
            surfaces = surfaces.reshape(*shape, len(SURFACE_SCORES))
            boundaries = np.array([image.boundaries for image in self.images]).reshape(*shape, 2)
            for i, name in enumerate(SURFACE_SCORES):
                found[name] = surfaces[..., i]
            found["boundary_iou"] = divide(boundaries[..., 0], boundaries[..., 1])
        return found

    def compute(self) -> dict[str, Any]:
        """All scores as plain numbers.

        `mean_iou`, ...: mean over classes of the score over the whole set; `foreground_iou` and
        `foreground_dice`: the same without a background, whose name is `background`; `classes`: the
        scores of each class, its pixels and the images without it; `confusion`: the pixel counts,
        target by rows; `per_image`: for each class the mean of the images' scores, and as
        `mean_iou`, ... the mean over images of their means over classes. `per_image` includes the
        surface distances,
        and `unmeasured`, the number of images without them. `calibration`: expected calibration
        error (`ece`), Brier score and the bins, over the whole set.
        """
        matrix, per_image = self.matrices.sum(axis=0), self.image_scores()
        whole = scores(matrix, multilabel=self.multilabel)
        if self.surface is not None:
            boundaries = np.zeros((len(self.classes), 2), np.int64)
            for image in self.images:
                boundaries += image.boundaries
            whole["boundary_iou"] = divide(boundaries[:, 0], boundaries[:, 1])
        result: dict[str, Any] = {f"mean_{name}": mean(values) for name, values in whole.items()}
        for name in FOREGROUND_SCORES:
            result[f"foreground_{name}"] = mean(whole[name][self.foreground])
        result["accuracy"] = float(divide(np.trace(matrix, axis1=-2, axis2=-1).sum(), matrix.sum()))
        result["images"] = len(self.per_image)
        result["background"] = self.background
        result["confusion"] = matrix.tolist()
        absent = np.isnan(per_image["iou"]).sum(axis=0)
        n = outcomes(matrix, multilabel=self.multilabel)
        result["classes"] = {}
        for i, label in enumerate(self.classes):
            row = {name: float(values[i]) for name, values in whole.items()}
            row["pixels"] = int(n["tp"][i] + n["fn"][i])
            row["absent"] = int(absent[i])
            result["classes"][label] = row
        result["per_image"] = self._mean_per_image(per_image)
        calibration = [image.calibration for image in self.images]
        if calibration and None not in calibration:
            total = reduce(add, calibration)
            result["calibration"] = {
                "ece": total.ece,
                "brier": total.brier_score,
                "bins": total.bins.sum(axis=0).tolist(),
            }
            if self.multilabel:
                errors = dict(zip(self.classes, total.errors.tolist(), strict=True))
                result["calibration"]["classes"] = errors
            image_means = np.array([(each.ece, each.brier_score) for each in calibration])
            result["per_image"]["mean_ece"] = mean(image_means[:, 0])
            result["per_image"]["mean_brier"] = mean(image_means[:, 1])
        return result

    def _mean_per_image(self, per_image: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Means over images of `image_scores`."""
        result: dict[str, Any] = {}
        for name, values in per_image.items():
            result[f"mean_{name}"] = mean(np.array([mean(row) for row in values]))
        for name in FOREGROUND_SCORES:
            means = [mean(row) for row in per_image[name][:, self.foreground]]
            result[f"foreground_{name}"] = mean(np.array(means))
        result["classes"] = {}
        for i, label in enumerate(self.classes):
            row = {name: mean(values[:, i]) for name, values in per_image.items()}
            if self.surface is not None and i in self.foreground:
                row["unmeasured"] = int(np.isnan(per_image["hd95"][:, i]).sum())
            result["classes"][label] = row
        return result

    def u_kan(self, batch_size: int) -> dict[str, Any]:
        """Scores by the protocol of U-KAN's published tables: `kanseg.metrics.u_kan.u_kan_scores`.

        Raises:
            InputError: a multiclass task, which it does not have.
        """
        if not self.multilabel and len(self.classes) != 2:
            raise InputError(
                "U-KAN's protocol is for binary and multilabel tasks, got a multiclass task with"
                f" {len(self.classes)} classes"
            )
        n = outcomes(self.matrices, multilabel=self.multilabel)
        intersections, unions = n["tp"], n["tp"] + n["fp"] + n["fn"]
        if not self.multilabel:  # without the background
            intersections, unions = intersections[:, 1:], unions[:, 1:]
        return u_kan_scores(intersections, unions, batch_size)
