"""Several trained networks with the same classes, their probabilities averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanseg.inference.predictor import Predictor
from kanseg.inference.segmenter import Segmenter
from kanseg.inference.sources import WindowedImage
from kanseg.utils.errors import InputError


class Ensemble(Segmenter):
    """Predictors of the same classes (the folds of a cross-validation, or other networks, each with
    its own preprocessing and tiles) as one.

    Args:
        members: one predictor or more.

    Raises:
        InputError: members of other classes, or of another task.
    """

    def __init__(self, members: Sequence[Predictor]):
        if not members:
            raise InputError("an ensemble needs at least one predictor")
        first = members[0]
        for member in members[1:]:
            if (member.classes, member.task) != (first.classes, first.task):
                raise InputError(
                    f"members of an ensemble need the same classes: {first.task}"
                    f" {', '.join(first.classes)}, and {member.task} {', '.join(member.classes)}"
                )
        looks = sum(member.looks for member in members)
        super().__init__(
            first.classes,
            first.colors,
            first.task,
            device=first.device,
            batch_size=first.batch_size,
            looks=looks,
        )
        self.members = tuple(members)

    @classmethod
    def from_checkpoints(cls, checkpoints: Sequence[str | Path], **options: Any) -> Ensemble:
        """An ensemble of checkpoints; options as of `Predictor.from_checkpoint`, for all
        of them.
        """
        return cls([Predictor.from_checkpoint(checkpoint, **options) for checkpoint in checkpoints])

    @torch.inference_mode()
    def bands(
        self, images: Sequence[WindowedImage], *, variance: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """As of `Segmenter.bands`."""
        streams = [member.bands(images, variance=variance) for member in self.members]
        for top, values in _aligned(streams, images[0].shape[0]):
            yield top, _combined(torch.stack(values), variance)

    def settings(self) -> str:
        """In words, how images are seen."""
        return f"{len(self.members)} networks: " + "; ".join(
            dict.fromkeys(member.settings() for member in self.members)
        )


def open_predictor(checkpoints: str | Path | Sequence[str | Path], **options: Any) -> Segmenter:
    """A `Predictor` of one checkpoint, an `Ensemble` of several; options as of
    `Predictor.from_checkpoint`.
    """
    if isinstance(checkpoints, (str, Path)):
        checkpoints = [checkpoints]
    return (
        Predictor.from_checkpoint(checkpoints[0], **options)
        if len(checkpoints) == 1
        else Ensemble.from_checkpoints(checkpoints, **options)
    )


def _combined(values: Tensor, variance: bool) -> Tensor:
    """(members, P, N, rows, W) -> their mean; where the last channel is a variance, that of all
    predictions: within and between the members.
    """
    mean = values.mean(dim=0)
    if variance:
        mean[:, -1] += values[:, :, :-1].var(dim=0, correction=0).mean(dim=1)
    return mean


def _aligned(
    streams: Sequence[Iterator[tuple[int, Tensor]]], height: int
) -> Iterator[tuple[int, list[Tensor]]]:
    """(first row, the same rows of every stream), whatever rows each stream gives at once."""
    held = [next(stream) for stream in streams]
    row = 0
    while True:
        bottom = min(top + values.shape[-2] for top, values in held)
        yield row, [values[..., row - top : bottom - top, :] for top, values in held]
        row = bottom
        if row == height:
            return
        held = [
            next(stream) if top + values.shape[-2] == row else (top, values)
            for stream, (top, values) in zip(streams, held, strict=True)
        ]
