"""A trained checkpoint to look into or to change: its network, settings and images."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from kanseg.config import ClassificationConfig, Config
from kanseg.data.io.images import decode_image
from kanseg.data.overlay import viewable
from kanseg.data.preprocess import Preprocess
from kanseg.data.splits.record import read_record
from kanseg.inference.checkpoint import CONFIG, load_model, read_description, save_checkpoint
from kanseg.inference.description import preprocess_from
from kanseg.inference.files.inputs import find_images
from kanseg.inference.novelty import center
from kanseg.inference.predictor import usable_device
from kanseg.training.run import train
from kanseg.utils.iteration import evenly
from kanseg.utils.reading import read_text

# Height and width that are used of an image that is not resized: more only costs time.
MAX_SIZE = (512, 512)


@dataclass(frozen=True)
class Source:
    """A trained network with what its training has stored.

    Args:
        folder: checkpoint.
        network: in evaluation mode, on the device.
        description: of the checkpoint.
        config: settings of its training, with the mean and standard deviation of its images.
    """

    folder: Path
    network: nn.Module
    description: dict[str, Any]
    config: Any

    @classmethod
    def read(cls, checkpoint: Path, device: str | None = None) -> Source:
        """Read a checkpoint or a run folder.

        Args:
            checkpoint: its folder.
            device: torch device; by default a GPU if there is one.

        Raises:
            InputError: a checkpoint or a device that cannot be used.
        """
        if (checkpoint / "best").is_dir():
            checkpoint = checkpoint / "best"
        description = read_description(checkpoint)
        kind = Config
        if description["labels"]["task"] == "classification":
            kind = ClassificationConfig
        config = kind.from_yaml(read_text(checkpoint / CONFIG))
        preprocess = preprocess_from(description["preprocess"])
        data = replace(config.data, mean=list(preprocess.mean), std=list(preprocess.std))
        model = replace(config.model, encoder_weights=None)
        network = load_model(checkpoint, description).to(usable_device(device)).eval()
        return cls(checkpoint, network, description, replace(config, data=data, model=model))

    @property
    def monitor(self) -> str:
        """Name of the score that has selected the weights."""
        return self.config.training.monitor

    @property
    def preprocess(self) -> Preprocess:
        """What turns images into the input of the network."""
        return preprocess_from(self.description["preprocess"])

    def save(self, folder: Path, network: nn.Module, changes: Mapping[str, Any]) -> Path:
        """Save a changed network as a checkpoint.

        Args:
            folder: of the new checkpoint.
            network: the changed network.
            changes: what was done to it, see `kanseg.models.factory.CHANGES`.
        """
        description = deepcopy(self.description)
        description["model"] |= changes
        split = read_record(self.folder)
        return save_checkpoint(folder, network, description, self.config, split=split)

    def train_on(
        self, checkpoint: Path, run: Path, *, epochs: int, lr: float | None = None
    ) -> Path:
        """Train a changed network with the settings of its training; an interrupted run continues.

        Args:
            checkpoint: of the changed network.
            run: folder of the run.
            epochs: its length.
            lr: learning rate; by default that of the settings.

        Returns:
            The checkpoint with the best weights.
        """
        training = replace(
            self.config.training,
            epochs=epochs,
            lr=self.config.training.lr if lr is None else lr,
            # what the training has begun with is over
            refine={},
            update_grid_epochs=[],
            freeze_encoder_epochs=0,
            report=False,
        )
        model = replace(self.config.model, start_from=str(checkpoint))
        config = replace(self.config, run_dir=str(run), model=model, training=training)
        interrupted = any((run / "checkpoints").glob("step_*"))
        train(config, resume=interrupted, overwrite=not interrupted)
        return run / "best"


def some_images(images: str, count: int) -> list[Path]:
    """At most `count` image files, evenly spaced over all, with the first and the last.

    Args:
        images: a file, a folder or a glob pattern.
        count: at least 1.

    Raises:
        InputError: there are none.
    """
    return evenly(find_images(images), count)


def read_input(path: Path, preprocess: Preprocess) -> tuple[np.ndarray, Tensor]:
    """Read an image as it is shown, (H, W, 3) uint8, and as the network gets it, (1, C, h, w).

    Of an image that is not resized only the center is used, at most 512 pixels a side.
    """
    decoded = decode_image(path)
    view, values = decoded.values, preprocess.scale(decoded, name=str(path))
    if preprocess.resize is None:
        view, values = center(view, MAX_SIZE), center(values, MAX_SIZE)
    return viewable(view), preprocess.normalize(values)[None]
