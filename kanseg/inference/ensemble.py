"""Average the probabilities of several networks with the same classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanseg.inference.classifier import Classifier, refuse_mask_options
from kanseg.inference.loading import load_checkpoint
from kanseg.inference.predictor import Predictor
from kanseg.inference.segmenter import Segmenter
from kanseg.inference.sliding_window import rows_per_chunk
from kanseg.inference.sources import WindowedImage
from kanseg.utils.errors import InputError


class Ensemble(Segmenter):
    """An ensemble of predictors with the same classes, such as the folds of a cross-validation.

    Each member keeps its own preprocessing and tiles.

    Args:
        members: one predictor or more.

    Raises:
        InputError: no members, or members with different classes or tasks.
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
        super().__init__(
            first.classes,
            first.colors,
            first.task,
            device=first.device,
            batch_size=first.batch_size,
            num_views=sum(member.num_views for member in members),
        )
        self.members = tuple(members)

    @classmethod
    def from_checkpoints(cls, checkpoints: Sequence[str | Path], **options: Any) -> Ensemble:
        """Load an ensemble of checkpoints; options as of `Predictor.from_checkpoint`, the same for
        all.
        """
        return cls([Predictor.from_checkpoint(checkpoint, **options) for checkpoint in checkpoints])

    def row_chunks(
        self,
        images: Sequence[WindowedImage],
        *,
        variance: bool = False,
        chunk_rows: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """As of `Segmenter.row_chunks`."""
        chunk_rows = chunk_rows or rows_per_chunk(images[0].shape[1])
        members = []
        for member in self.members:
            members.append(member.row_chunks(images, variance=variance, chunk_rows=chunk_rows))
        # The members advance together, so only one chunk of each is in memory.
        return map(partial(_average_chunks, variance), *members)

    def describe(self) -> str:
        """As of `Segmenter.describe`."""
        different = dict.fromkeys(member.describe() for member in self.members)
        return f"{len(self.members)} networks: {'; '.join(different)}"

    def provenance(self) -> list[dict[str, Any]] | None:
        """As of `Segmenter.provenance`."""
        networks: list[dict[str, Any]] = []
        for member in self.members:
            known = member.provenance()
            if known is None:
                return None
            networks += known
        return networks


def open_predictor(
    checkpoints: str | Path | Sequence[str | Path], **options: Any
) -> Segmenter | Classifier:
    """Load a `Predictor` from one checkpoint, or an `Ensemble` from several; of classifiers one
    `Classifier`.

    Args:
        checkpoints: folders or files.
        options: of `Predictor.from_checkpoint`, or of `Classifier`; None means the default.

    Raises:
        InputError: a checkpoint that cannot be loaded, classifiers beside other networks, or
            options that they do not have.
    """
    if isinstance(checkpoints, (str, Path)):
        checkpoints = [checkpoints]
    options = {key: value for key, value in options.items() if value is not None}
    networks = [load_checkpoint(Path(checkpoint)) for checkpoint in checkpoints]
    kinds = {network.is_classifier for network in networks}
    if len(kinds) > 1:
        raise InputError(
            "some of these checkpoints are classifiers and some predict masks, so they cannot be"
            f" averaged: {', '.join(map(str, checkpoints))}"
        )
    if kinds == {True}:
        refuse_mask_options(options)
        return Classifier(networks, **options)
    members = [Predictor.from_network(network, **options) for network in networks]
    if len(members) == 1:
        return members[0]
    return Ensemble(members)


def _average_chunks(variance: bool, *chunks: tuple[int, Tensor]) -> tuple[int, Tensor]:
    """Average the same row chunk (first row, (P, N, rows, W)) of all members.

    If the last channel is a variance, that of the result is over all predictions: the mean variance
    within the members plus the variance between them.
    """
    values = torch.stack([rows for _, rows in chunks])
    mean = values.mean(dim=0)
    if variance:
        mean[:, -1] += values[:, :, :-1].var(dim=0, correction=0).mean(dim=1)
    return chunks[0][0], mean
