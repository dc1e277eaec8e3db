"""Scores of masks: over the whole set from pixel counts, and image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from torch import Tensor

from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.metrics.calibration import Calibration, calibrations
from kanseg.metrics.confusion import confusion_matrices, divide, mean, outcomes, scores
from kanseg.metrics.surfaces import SURFACE_SCORES, SurfaceOptions, boundary_counts, surface_scores
from kanseg.metrics.u_kan import u_kan_scores
from kanseg.utils.errors import InputError


@dataclass(frozen=True)
class ImageCounts:
    """What is kept of one image: all that every score is computed from.

    Args:
        confusion: (N, N) int64, truth by rows; of a multilabel task (N, 2, 2).
        calibration: where there were probabilities.
        surfaces: (N, 4): SURFACE_SCORES by class, NaN for a background; None where they are not
            asked for.
        boundaries: (N, 2) int64: pixels of the intersection and union of the boundaries.
    """

    confusion: np.ndarray
    calibration: Calibration | None = None
    surfaces: np.ndarray | None = None
    boundaries: np.ndarray | None = None


class SegmentationMetrics:
    """Scores of a set of images, from counts by image; they do not depend on batches, order or
    number of processes.

    A score whose class occurs neither in truth nor in prediction (iou, dice, surfaces), or whose
    denominator is empty (precision, recall, specificity), is NaN and left out of means; `absent`
    counts the images in which a class occurs in neither.

    Args:
        classes: names, index 0 first.
        task: "binary", "multiclass" or "multilabel".
        surface: measure surface distances and boundary IoU too, of all classes but a background;
            None for not.
    """

    def __init__(
        self,
        classes: Sequence[str],
        task: str = "multiclass",
        *,
        surface: SurfaceOptions | None = None,
    ):
        self.classes, self.multilabel, self.surface = tuple(classes), task == "multilabel", surface
        self.per_image: dict[int, ImageCounts] = {}

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
            indices: numbers of the images; by default in the order they come.
            probabilities: (B, N, H, W) of all classes, for the calibration error.
            spacings: (row, column) distance of neighboring pixels of each image; by default
                those of `surface`.
        """
        first, count = len(self.per_image), len(target)
        indices = range(first, first + count) if indices is None else indices
        matrices = confusion_matrices(predicted, target, len(self.classes)).cpu().numpy()
        calibration = (
            [None] * count if probabilities is None else calibrations(probabilities, target)
        )
        outlines = [(None, None)] * count
        if self.surface is not None:
            spacings = (
                [self.surface.spacing or (1.0, 1.0)] * count if spacings is None else spacings
            )
            outlines = [
                self._outlines(*pair)
                for pair in zip(
                    predicted.cpu().numpy(), target.cpu().numpy(), spacings, strict=True
                )
            ]
        for index, *parts, (surfaces, boundaries) in zip(
            indices, matrices, calibration, outlines, strict=True
        ):
            self.per_image[int(index)] = ImageCounts(*parts, surfaces, boundaries)

    def _outlines(
        self, predicted: np.ndarray, target: np.ndarray, spacing: Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        surfaces = np.full((len(self.classes), len(SURFACE_SCORES)), np.nan)
        boundaries = np.zeros((len(self.classes), 2), np.int64)
        for label in range(0 if self.multilabel else 1, len(self.classes)):
            truth = target[label] if self.multilabel else target
            masks = (
                (predicted[label] == 1, truth == 1)
                if self.multilabel
                else (predicted == label, truth == label)
            )
            counted = truth != IGNORE_INDEX
            found = surface_scores(
                *masks, counted, spacing=spacing, tolerance=self.surface.tolerance
            )
            surfaces[label] = [found[name] for name in SURFACE_SCORES]
            boundaries[label] = boundary_counts(*masks, counted)
        return surfaces, boundaries

    def merge(self, other: Mapping[int, ImageCounts]) -> None:
        """Add the images of another process."""
        self.per_image.update(other)

    @property
    def images(self) -> list[ImageCounts]:
        """In the order of their numbers."""
        return [self.per_image[index] for index in sorted(self.per_image)]

    @property
    def matrices(self) -> np.ndarray:
        """(images, N, N) int64, of a multilabel task (images, N, 2, 2)."""
        count = len(self.classes)
        shape = (0, count, 2, 2) if self.multilabel else (0, count, count)
        return (
            np.stack([image.confusion for image in self.images])
            if self.per_image
            else np.zeros(shape, np.int64)
        )

    def single(self) -> dict[str, np.ndarray]:
        """The scores of every image: iou, dice, ... -> (images, N); with surfaces also hd95,
        hd, assd, nsd, boundary_iou.
        """
        found = scores(self.matrices, multilabel=self.multilabel)
        if self.surface is not None:
            shape = (len(self.per_image), len(self.classes), -1)
            surfaces = np.array([p.surfaces for p in self.images]).reshape(
                *shape[:2], len(SURFACE_SCORES)
            )
            boundaries = np.array([p.boundaries for p in self.images]).reshape(*shape[:2], 2)
            found |= {name: surfaces[..., i] for i, name in enumerate(SURFACE_SCORES)}
            found["boundary_iou"] = divide(boundaries[..., 0], boundaries[..., 1])
        return found

    def compute(self) -> dict[str, Any]:
        """All scores as plain numbers.

        `mean_iou`, ...: mean over classes of the score over the whole set; `classes`: the scores of
        each class, its pixels and the images without it; `confusion`: the pixel counts, truth by
        rows; `per_image`: for each class the mean over images of the image's score, and
        `mean_iou`, ...: the mean over images of the mean over its classes. Surface distances are
        among `per_image`; `unmeasured` counts the images left out of them. `calibration`:
        expected calibration error (`ece`), Brier score and the bins, over the whole set.
        """
        matrix, single = self.matrices.sum(axis=0), self.single()
        whole = scores(matrix, multilabel=self.multilabel)
        if self.surface is not None:
            counts = sum(
                (p.boundaries for p in self.images), np.zeros((len(self.classes), 2), np.int64)
            )
            whole["boundary_iou"] = divide(counts[:, 0], counts[:, 1])
        absent = np.isnan(single["iou"]).sum(axis=0)
        n = outcomes(matrix, multilabel=self.multilabel)
        result: dict[str, Any] = {f"mean_{name}": mean(values) for name, values in whole.items()}
        result["accuracy"] = float(divide(np.trace(matrix, axis1=-2, axis2=-1).sum(), matrix.sum()))
        result["images"] = len(self.per_image)
        result["confusion"] = matrix.tolist()
        result["classes"] = {
            label: (
                {name: float(values[i]) for name, values in whole.items()}
                | {"pixels": int(n["tp"][i] + n["fn"][i]), "absent": int(absent[i])}
            )
            for i, label in enumerate(self.classes)
        }
        result["per_image"] = self._per_image(single)
        return result | self._calibration(result["per_image"])

    def _per_image(self, single: Mapping[str, np.ndarray]) -> dict[str, Any]:
        result: dict[str, Any] = {
            f"mean_{name}": mean(np.array([mean(row) for row in values]))
            for name, values in single.items()
        }
        result["classes"] = {
            label: {name: mean(values[:, i]) for name, values in single.items()}
            for i, label in enumerate(self.classes)
        }
        if self.surface is not None:
            for i, label in list(enumerate(self.classes))[0 if self.multilabel else 1 :]:
                result["classes"][label]["unmeasured"] = int(np.isnan(single["hd95"][:, i]).sum())
        return result

    def _calibration(self, per_image: dict[str, Any]) -> dict[str, Any]:
        """{"calibration": ...} over the set, where all images came with probabilities; their
        means go into `per_image`.
        """
        each = [image.calibration for image in self.images]
        if not each or any(one is None for one in each):
            return {}
        whole = reduce(add, each)
        per_image |= {
            "mean_ece": mean(np.array([one.ece for one in each])),
            "mean_brier": mean(np.array([one.brier_score for one in each])),
        }
        result: dict[str, Any] = {
            "ece": whole.ece,
            "brier": whole.brier_score,
            "bins": whole.bins.sum(axis=0).tolist(),
        }
        if self.multilabel:
            result["classes"] = dict(zip(self.classes, whole.errors.tolist(), strict=True))
        return {"calibration": result}

    def u_kan(self, batch_size: int) -> dict[str, Any]:
        """Scores by the protocol of U-KAN's published tables: `kanseg.metrics.u_kan.u_kan_scores`.

        Raises:
            InputError: a multiclass task, which it does not have.
        """
        if not self.multilabel and len(self.classes) != 2:
            raise InputError(
                f"U-KAN's protocol is for binary and multilabel tasks; here are {len(self.classes)}"
                " classes that exclude each other"
            )
        n = outcomes(self.matrices, multilabel=self.multilabel)
        n = n if self.multilabel else {name: values[:, 1:] for name, values in n.items()}
        return u_kan_scores(n["tp"], n["tp"] + n["fp"] + n["fn"], batch_size)
