"""What a run trains for: the data, the loss, the scores and the images. The loop and the run
folder know nothing else of it.
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

from kanseg.data.split_record import SplitRecord

Log = Callable[[str], None]
Scores = dict[str, Any]


class Task(ABC):
    """One kind of experiment.

    After `open`, `held_out` has a data set for each of "val" and "test" that there is, and
    `description` tells a checkpoint how to use its weights (plain JSON), and `split` what is
    trained, selected and tested on.

    Args:
        config: the settings of a run of this kind.
        accept_changes: whether a run goes on with a data set that was changed since it was begun.
    """

    target: str  # the key of the truth in a batch
    monitors: tuple[str, ...]  # the scores that can select the best weights, names of `headline`

    def __init__(self, config: Any, *, accept_changes: bool = False):
        self.config = config
        self.accept_changes = accept_changes
        self.split: SplitRecord | None = None
        self.held_out: dict[str, Dataset] = {}
        self.description: dict[str, Any] = {}

    @abstractmethod
    def check(self) -> None:
        """Whether the settings that belong to this kind can be used, before any data are read;
        InputError for the first that cannot.
        """

    @abstractmethod
    def model_arguments(self) -> dict[str, Any]:
        """The part of a description that the network is built from, before the data are known (for
        a look at the options).
        """

    @abstractmethod
    def open(self, *, checkpoint: Path | None, log: Log) -> Dataset:
        """The training set, every file of it checked; fills `held_out` and `description`.

        Args:
            checkpoint: one that is resumed; its preprocessing is kept, and its split.
            log: for what was found and decided.

        Raises:
            InputError: faults in the data, all of them.
        """

    @abstractmethod
    def loss(self) -> Callable[[Any, Tensor], Tensor]:
        """(output of the network, target) -> scalar."""

    @abstractmethod
    def evaluate(
        self, model: nn.Module, dataset: Dataset, accelerator: Accelerator, *, title: str
    ) -> Scores:
        """All scores of a network on a data set, the same for any number of processes."""

    def measure(self, model: nn.Module, role: str, accelerator: Accelerator, run: Path) -> Scores:
        """The scores of a finished run on "val" or "test", with what is too costly after each
        epoch; may leave tables in the run folder.
        """
        return self.evaluate(model, self.held_out[role], accelerator, title=role)

    @abstractmethod
    def headline(self, scores: Scores) -> Scores:
        """Those that are logged after an epoch."""

    @abstractmethod
    def table(self, scores: Scores) -> str:
        """The scores as text."""

    @abstractmethod
    def draw(
        self, model: nn.Module, results: Scores, run: Path, *, device: torch.device
    ) -> list[Path]:
        """Images of the finished run; the first one is the one to look at first."""

    @abstractmethod
    def names(self, indices: Iterable[int]) -> list[str]:
        """Names of training samples."""

    def preview(self, model: nn.Module, accelerator: Accelerator) -> np.ndarray | None:
        """An image (H, W, 3) uint8 of what the network does to the first images of val, for the
        trackers; None, by default.
        """
        return None

    def mix(self, images: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """What is done to a whole training batch before the network sees it: nothing, by
        default.
        """
        return images, target
