"""The common interface of `Predictor` (one network) and `Ensemble` (several): images -> masks,
probabilities and uncertainty.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanseg.inference.sliding_window import merge_rows, put_rows
from kanseg.inference.sources import ArrayImage, WindowedImage
from kanseg.utils.errors import InputError


@dataclass(frozen=True)
class Prediction:
    """Result for P images of one size; `prediction[i]` is that of image i, without the first axis.

    Args:
        label: (P, H, W) uint8 class indices; of a multilabel task (P, N, H, W) of 0 and 1.
        probabilities: (P, N, H, W) float32; None if not requested.
        uncertainty: (P, H, W) float32; None if not requested. The variance over views and networks
            if there are several (mean over the classes, at most 0.25), otherwise the entropy of the
            probabilities (0 to 1).
        novelty: (P, H, W) float32 from 0 to 1, of `kanseg.inference.novelty`; None if not
            requested.
    """

    label: Tensor
    probabilities: Tensor | None = None
    uncertainty: Tensor | None = None
    novelty: Tensor | None = None

    def __getitem__(self, index: int) -> Prediction:
        parts = []
        for values in (self.label, self.probabilities, self.uncertainty, self.novelty):
            parts.append(None if values is None else values[index])
        return Prediction(*parts)


class Segmenter(ABC):
    """Predict masks of images, by one network (`Predictor`) or several (`Ensemble`).

    Args:
        classes: names of the classes.
        colors: an RGB color per class.
        task: "binary", "multiclass" or "multilabel".
        device: torch device of the networks.
        batch_size: images or tiles per batch.
        num_views: number of predictions that are averaged, over all networks and their views.

    Attributes:
        novelty: predicts the novelty maps, see `kanseg.inference.novelty`; None by default.
    """

    novelty: Segmenter | None = None

    def __init__(
        self,
        classes: Sequence[str],
        colors: Sequence[Sequence[int]],
        task: str,
        *,
        device: torch.device,
        batch_size: int,
        num_views: int,
    ):
        self.classes = tuple(classes)
        self.colors = [tuple(color) for color in colors]
        self.task = task
        self.device = device
        self.batch_size = batch_size
        self.num_views = num_views

    @abstractmethod
    def row_chunks(
        self,
        images: Sequence[WindowedImage],
        *,
        variance: bool = False,
        chunk_rows: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Predict P images of one size by row chunks, so that no image need fit into memory.

        Args:
            images: P images of one size (H, W).
            variance: add a channel: the variance over views and networks, mean over the classes.
            chunk_rows: rows of a chunk; by default `rows_per_chunk`.

        Returns:
            An iterator over (first row, probabilities (P, N, rows, W) float32 on the CPU), from top
            to bottom.

        Raises:
            InputError: channels that a network does not take.
        """

    @abstractmethod
    def describe(self) -> str:
        """Describe the input of the network in a few words: resizing and tiles."""

    @abstractmethod
    def provenance(self) -> list[dict[str, Any]] | None:
        """Everything that determines the masks, as plain JSON: for each network the SHA-256 of its
        weights, and the options. None if a network was not loaded from a checkpoint.
        """

    def __call__(self, image: np.ndarray, *, name: str = "image") -> np.ndarray:
        """Predict the mask of an image.

        Args:
            image: (H, W) or (H, W, C), not normalized: uint8 from 0 to 255 or uint16 from 0 to
                65535; float32 in the units of the training images, if those were floats.
            name: for messages.

        Returns:
            (H, W) uint8 class indices; of a multilabel task (N, H, W) uint8 of 0 and 1.
        """
        return self.predict([ArrayImage(image, name)]).label[0].numpy()

    def probabilities(self, image: np.ndarray, *, name: str = "image") -> Tensor:
        """Predict (N, H, W) float32 probabilities of an image, as of `__call__`.

        They sum to 1 over the classes (a binary network gives both classes).

        Raises:
            InputError: another type or shape, or channels that the network does not take.
        """
        source = ArrayImage(image, name)
        values = merge_rows(self.row_chunks([source]), source.shape[0])
        check_finite_output(values, lambda _: name)
        return values[0]

    def uncertainty(self, image: np.ndarray, *, name: str = "image") -> Tensor:
        """Predict (H, W) float32, `Prediction.uncertainty`, of an image as of `probabilities`."""
        return self.predict([ArrayImage(image, name)], uncertainty=True).uncertainty[0]

    def predict(
        self,
        images: Sequence[WindowedImage],
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
        novelty: bool = False,
    ) -> Prediction:
        """Predict images of one size. Probabilities, uncertainty and novelty are large, so they are
        returned only on request.
        """
        height = images[0].shape[0]
        label, all_probabilities, all_uncertainty = None, None, None
        for top, values in self.row_chunks(images, variance=self.has_variance(uncertainty)):
            chunk = self.interpret(values, images, uncertainty=uncertainty)
            label = put_rows(label, top, chunk.label, height)
            if probabilities:
                all_probabilities = put_rows(all_probabilities, top, chunk.probabilities, height)
            if uncertainty:
                all_uncertainty = put_rows(all_uncertainty, top, chunk.uncertainty, height)
        all_novelty = None
        if novelty:
            all_novelty = self.novelty.predict(images, probabilities=True).probabilities[:, 0]
        return Prediction(label, all_probabilities, all_uncertainty, all_novelty)

    def has_variance(self, uncertainty: bool) -> bool:
        """True if uncertainty is requested and is a variance rather than an entropy."""
        return uncertainty and self.num_views > 1

    def interpret(
        self, values: Tensor, images: Sequence[WindowedImage], *, uncertainty: bool = False
    ) -> Prediction:
        """Turn the values of a row chunk into labels, probabilities and, on request, uncertainty.

        Args:
            values: (P, N, rows, W) of `row_chunks`, with the variance if `has_variance`.
            images: the P images, for messages.
            uncertainty: whether to compute it.

        Raises:
            InputError: the network output is NaN or infinite.
        """
        check_finite_output(values, lambda number: images[number].name)
        if self.has_variance(uncertainty):
            values, variance = values[:, :-1], values[:, -1]
            return Prediction(decide(values, self.task), values, variance)
        label = decide(values, self.task)
        if uncertainty:
            return Prediction(label, values, entropy(values, self.task))
        return Prediction(label, values)


def check_finite_output(probabilities: Tensor, name_of: Callable[[int], str]) -> None:
    """Raise InputError if the output of a network is NaN or infinite for an image.

    Args:
        probabilities: (B, ...).
        name_of: index of an image in the batch -> its name.
    """
    if torch.isfinite(probabilities).all():
        return
    finite = torch.isfinite(probabilities).flatten(1).all(dim=1)
    raise InputError(
        f"{name_of(finite.tolist().index(False))}: the network outputs NaN for it; its weights are"
        " damaged, or the precision is too low (--precision no)"
    )


def decide(probabilities: Tensor, task: str) -> Tensor:
    """Turn probabilities (..., N, H, W) into masks uint8: class indices (..., H, W), or of a
    multilabel task 0 and 1 of each class (..., N, H, W).
    """
    if task == "multilabel":
        return (probabilities > 0.5).to(torch.uint8)
    # Over an axis that is not the last, max (with its indices) is several times faster than argmax.
    return probabilities.max(dim=-3).indices.to(torch.uint8)


def entropy(probabilities: Tensor, task: str) -> Tensor:
    """Entropy of probabilities (..., N, H, W): (..., H, W) from 0 (certain) to 1 (all classes are
    equally likely); of a multilabel task the mean of the binary entropies of the classes.
    """
    terms = torch.special.entr(probabilities)
    if task == "multilabel":
        return (terms + torch.special.entr(1 - probabilities)).mean(dim=-3) / math.log(2)
    return terms.sum(dim=-3) / math.log(probabilities.shape[-3])
