"""What a run trains for: data, loss, scores and images. The loop and the run folder use a task
through this interface only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from kanseg.data.preprocess import Preprocess
from kanseg.data.split_record import SplitRecord

Log = Callable[[str], None]
Scores = dict[str, Any]


class Task(ABC):
    """A kind of experiment: segmentation or classification.

    `open` sets `eval_datasets` ("val" and "test", where the data set has them), `preprocess`,
    `description` (plain JSON that tells a checkpoint how to use its weights) and `split_record`
    (which samples are trained, validated and tested on).

    Args:
        config: the settings of a run.
        accept_changes: go on with a data set that was changed since the run was begun.
    """

    target: str  # key of the target in a batch
    monitors: tuple[str, ...]  # scores that can select the best weights, names of `headline`

    def __init__(self, config: Any, *, accept_changes: bool = False):
        self.config = config
        self.accept_changes = accept_changes
        self.split_record: SplitRecord | None = None
        self.eval_datasets: dict[str, Dataset] = {}
        self.preprocess: Preprocess | None = None
        self.description: dict[str, Any] = {}

    @abstractmethod
    def check(self) -> None:
        """Validate the settings of this kind of experiment before any data is read.

        Raises:
            InputError: the first that cannot be used.
        """

    @abstractmethod
    def model_arguments(self) -> dict[str, Any]:
        """Arguments of the network as far as they are known before the data is read, to validate
        its options.
        """

    @abstractmethod
    def open(self, *, checkpoint: Path | None, log: Log) -> Dataset:
        """Check the data, and return the training set.

        Args:
            checkpoint: one that is resumed; its preprocessing and its splits are kept.
            log: for what was found and decided.

        Raises:
            InputError: faults in the data, all of them.
        """

    @abstractmethod
    def loss(self, output: Any, target: Tensor) -> Tensor:
        """The loss of a batch: output of the network, target -> scalar."""

    @abstractmethod
    def evaluate(
        self, model: nn.Module, dataset: Dataset, accelerator: Accelerator, *, title: str
    ) -> Scores:
        """All scores of a network on a data set, the same for any number of processes."""

    def measure(self, model: nn.Module, split: str, accelerator: Accelerator, run: Path) -> Scores:
        """The scores of a finished run on "val" or "test", with those that are too costly after
        each epoch; may write tables into the run folder.
        """
        return self.evaluate(model, self.eval_datasets[split], accelerator, title=split)

    @abstractmethod
    def headline(self, scores: Scores) -> Scores:
        """The scores that are logged after an epoch."""

    @abstractmethod
    def table(self, scores: Scores) -> str:
        """The scores as text."""

    @abstractmethod
    def draw(
        self, model: nn.Module, results: Scores, run: Path, *, device: torch.device
    ) -> list[Path]:
        """Draw images of the finished run; the first one is the one to look at first."""

    @abstractmethod
    def names(self, indices: Iterable[int]) -> list[str]:
        """Names of training samples."""

    def preview(self, model: nn.Module, accelerator: Accelerator) -> np.ndarray | None:
        """An image (H, W, 3) uint8 of predictions on val, for the trackers; None by default."""
        return None

    def mix(self, images: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix the samples of a training batch; unchanged by default."""
        return images, target
