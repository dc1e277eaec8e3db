"""The interface of a task: data, loss, scores and images of a kind of experiment. The training loop
and the run folder use only this interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from kanseg.data.preprocess import Preprocess
from kanseg.data.splits.record import SplitRecord
from kanseg.data.transforms import AUTO
from kanseg.encoders import EncoderWeights
from kanseg.utils.language import translate

Log = Callable[[str], None]
Scores = dict[str, Any]
Spec = Mapping[str, Mapping[str, object]] | str


class Task(ABC):
    """A kind of experiment: segmentation or classification.

    `open` sets `eval_datasets` ("val" and "test", if the data set has them), `preprocess`,
    `description` (JSON in a checkpoint: model, labels, preprocessing) and `split_record` (the
    samples of train, val and test). `pretrained` is set before `open`: the weights that the encoder
    of a new run begins with.

    Args:
        config: the settings of a run.
        accept_changes: accept that the data set has changed since the resumed run was started.
    """

    target: str  # key of the target in a batch
    monitors: tuple[str, ...]  # names in `headline` of scores that can select the best weights

    def __init__(self, config: Any, *, accept_changes: bool = False):
        self.config = config
        self.accept_changes = accept_changes
        self.split_record: SplitRecord | None = None
        self.eval_datasets: dict[str, Dataset] = {}
        self.preprocess: Preprocess | None = None
        self.description: dict[str, Any] = {}
        self.pretrained: EncoderWeights | None = None

    def use_transforms(self, transforms: Sequence[Spec], log: Log) -> None:
        """Write the default augmentation into settings that leave `data.augment` to kanseg, and log
        it; other settings stay as they are.

        A checkpoint then holds the transforms, so that a resumed run keeps them.
        """
        if self.config.data.augment != AUTO:
            return
        chosen = list(transforms)
        self.config = replace(self.config, data=replace(self.config.data, augment=chosen))
        if chosen:
            log(
                translate(
                    "data.augment auto: every other image is mirrored left to right;"
                    " --data.augment '[]' trains without"
                )
            )
        else:
            log(
                translate(
                    "data.augment auto: nothing, since classes with names of one character may be"
                    " digits or letters; --data.augment '[RandomHorizontalFlip]' mirrors images"
                )
            )

    @abstractmethod
    def check(self) -> None:
        """Validate the settings of this kind of experiment before any data is read.

        Raises:
            InputError: the first setting that cannot be used.
        """

    @abstractmethod
    def model_arguments(self) -> dict[str, Any]:
        """Return arguments of the network before the data is read, to validate its options."""

    @abstractmethod
    def open(self, *, checkpoint: Path | None, log: Log) -> Dataset:
        """Check the data, and return the training set.

        Args:
            checkpoint: the checkpoint that is resumed; its preprocessing and splits are kept.
            log: receives a line for every decision.

        Raises:
            InputError: a list of all errors in the data.
        """

    @abstractmethod
    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar, from the output of the network and the target."""

    @abstractmethod
    def evaluate(
        self, model: nn.Module, dataset: Dataset, accelerator: Accelerator, *, title: str
    ) -> Scores:
        """Return all scores of a network on a dataset, the same for any number of processes."""

    def measure(self, model: nn.Module, split: str, accelerator: Accelerator, run: Path) -> Scores:
        """Return the scores of a finished run on "val" or "test", including those that are too slow
        for every epoch; may write tables into the run folder.
        """
        return self.evaluate(model, self.eval_datasets[split], accelerator, title=split)

    @abstractmethod
    def headline(self, scores: Scores) -> Scores:
        """Return the scores that are logged after an epoch."""

    def advice(self, scores: Scores) -> str | None:
        """Return what to do about scores of val that a network should have left behind, from
        `headline`; None if there is nothing to say.
        """
        return None

    @abstractmethod
    def table(self, scores: Scores) -> str:
        """Return the scores as text."""

    @abstractmethod
    def draw(
        self, model: nn.Module, results: Scores, run: Path, *, device: torch.device
    ) -> list[Path]:
        """Draw images of the finished run, the most informative first."""

    @abstractmethod
    def names(self, indices: Iterable[int]) -> list[str]:
        """Return the names of training samples."""

    def preview(self, model: nn.Module, accelerator: Accelerator) -> np.ndarray | None:
        """Return an image (H, W, 3) uint8 of predictions on val for the trackers, or None."""
        return None

    def mix(self, images: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix the samples of a training batch; unchanged by default."""
        return images, target
