"""What a network and an ensemble have in common: images -> label maps, probabilities and
uncertainty, a band of rows after the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kanseg.inference.sliding_window import gathered
from kanseg.inference.sources import ArrayImage, WindowedImage
from kanseg.utils.errors import InputError


@dataclass(frozen=True)
class Prediction:
    """What is known of P images of one size, or of one without the first axis.

    Args:
        label: (P, H, W) uint8 class indices; of a multilabel task (P, N, H, W) of 0 and 1.
        probabilities: (P, N, H, W) float32.
        uncertainty: (P, H, W) float32: the variance over the views and members (mean over the
            classes; at most 0.25), or where there is only one the entropy of the probabilities (0
            to 1). None where it was not asked for.
    """

    label: Tensor
    probabilities: Tensor | None
    uncertainty: Tensor | None

    def of(self, place: int) -> Prediction:
        """What is known of one of the images."""
        return Prediction(
            *(
                None if values is None else values[place]
                for values in (self.label, self.probabilities, self.uncertainty)
            )
        )


class Segmenter(ABC):
    """Images -> label maps, by one network (`Predictor`) or several (`Ensemble`).

    Args:
        classes: names of the classes.
        colors: an RGB color per class.
        task: "binary", "multiclass" or "multilabel".
        device: torch device of the networks.
        batch_size: images or tiles at once.
        looks: how many predictions are averaged: views of each network, summed over the networks.
    """

    def __init__(
        self,
        classes: Sequence[str],
        colors: Sequence[Sequence[int]],
        task: str,
        *,
        device: torch.device,
        batch_size: int,
        looks: int,
    ):
        self.classes, self.colors = tuple(classes), [tuple(c) for c in colors]
        self.task, self.device, self.batch_size, self.looks = task, device, batch_size, looks

    @abstractmethod
    def bands(
        self, images: Sequence[WindowedImage], *, variance: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """(first row, probabilities (P, N, rows, W) float32 on the CPU) of images of one size,
        from top to bottom, each row once.

        With `variance` there is a channel more: the variance over the views and members, mean over
        the classes.

        Raises:
            InputError: channels that a network does not take.
        """

    @abstractmethod
    def settings(self) -> str:
        """In words, how images are seen."""

    def __call__(self, image: np.ndarray, *, name: str = "image") -> np.ndarray:
        """(H, W) or (H, W, C) uint8 or uint16 -> (H, W) uint8 class indices, or of a multilabel
        task (N, H, W) uint8 of 0 and 1.
        """
        return self.predict([ArrayImage(image, name)]).label[0].numpy()

    def probabilities(self, image: np.ndarray, *, name: str = "image") -> Tensor:
        """(H, W) or (H, W, C) uint8 or uint16 -> (classes, H, W) float32 that sum to 1 (a binary
        network gives both classes).

        Raises:
            InputError: another type or shape, or channels that the network does not take.
        """
        source = ArrayImage(image, name)
        values = gathered(self.bands([source]), source.shape[0])
        check_finite_output(values, lambda _: name)
        return values[0]

    def uncertainty(self, image: np.ndarray, *, name: str = "image") -> Tensor:
        """(H, W) or (H, W, C) uint8 or uint16 -> (H, W) float32: `Prediction.uncertainty`."""
        return self.predict([ArrayImage(image, name)], uncertainty=True).uncertainty[0]

    def predict(
        self,
        images: Sequence[WindowedImage],
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
    ) -> Prediction:
        """All of images of one size; probabilities and uncertainty only where asked for, since
        they are large.
        """
        height = images[0].shape[0]
        kept: dict[str, list[tuple[int, Tensor]]] = {
            "label": [],
            "probabilities": [],
            "uncertainty": [],
        }
        for top, strip in self.strips(images, uncertainty=uncertainty):
            kept["label"].append((top, strip.label))
            if probabilities:
                kept["probabilities"].append((top, strip.probabilities))
            if uncertainty:
                kept["uncertainty"].append((top, strip.uncertainty))
        return Prediction(**{key: gathered(strips, height) for key, strips in kept.items()})

    @torch.inference_mode()
    def strips(
        self, images: Sequence[WindowedImage], *, uncertainty: bool = False
    ) -> Iterator[tuple[int, Prediction]]:
        """(first row, what is known of some rows), from top to bottom."""
        variance = uncertainty and self.looks > 1
        for top, values in self.bands(images, variance=variance):
            check_finite_output(values, lambda number: images[number].name)
            probabilities = values[:, :-1] if variance else values
            doubt = (
                values[:, -1]
                if variance
                else entropy(probabilities, self.task)
                if uncertainty
                else None
            )
            yield top, Prediction(decide(probabilities, self.task), probabilities, doubt)


def check_finite_output(probabilities: Tensor, name_of: Callable[[int], str]) -> None:
    """InputError where a network gives NaN for an image: its mask would be one of nothing.

    Args:
        probabilities: (B, ...).
        name_of: number of an image in the batch -> its name.
    """
    if torch.isfinite(probabilities).all():
        return
    finite = torch.isfinite(probabilities).flatten(1).all(dim=1)
    raise InputError(
        f"{name_of(finite.tolist().index(False))}: the network gives NaN for it: its weights are of"
        " no use, or precision is too low"
    )


def decide(probabilities: Tensor, task: str) -> Tensor:
    """Probabilities (..., N, H, W) -> label maps uint8: class indices (..., H, W), or of a
    multilabel task 0 and 1 of each class (..., N, H, W).
    """
    # max, which gives the place too, is several times as fast as argmax over an axis that is not
    # the last.
    decided = probabilities > 0.5 if task == "multilabel" else probabilities.max(dim=-3).indices
    return decided.to(torch.uint8)


def entropy(probabilities: Tensor, task: str) -> Tensor:
    """Probabilities (..., N, H, W) -> (..., H, W) from 0 (sure) to 1 (all classes alike; of a
    multilabel task the mean over its yes or no's).
    """
    surprise = torch.special.entr(probabilities)
    if task == "multilabel":
        return (surprise + torch.special.entr(1 - probabilities)).mean(dim=-3) / math.log(2)
    return surprise.sum(dim=-3) / math.log(probabilities.shape[-3])
