"""Read a trained network and the description in its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from kanseg.config import Config, DataConfig
from kanseg.data import Preprocess
from kanseg.inference.checkpoint import CONFIG, MANIFEST, find_fault
from kanseg.inference.description import preprocess_from
from kanseg.utils.errors import InputError
from kanseg.utils.hub import find_folder, from_pretrained
from kanseg.utils.reading import read_text


@dataclass(frozen=True)
class Source:
    """A trained network.

    Args:
        folder: checkpoint.
        model: in evaluation mode, on the CPU.
        description: labels, preprocess, tile, ... of the checkpoint.
    """

    folder: Path
    model: nn.Module
    description: dict[str, Any]

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of the training."""
        return preprocess_from(self.description["preprocess"])

    @property
    def task(self) -> str:
        """binary, multiclass, multilabel or classification."""
        return self.description["labels"]["task"]

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The fixed (height, width) of its images; None if it takes any."""
        size = (self.description.get("model") or self.description["classifier"]).get("image_size")
        if size is None or self.preprocess.resize is not None:
            return None
        return int(size[0]), int(size[1])

    def data(self, root: str | None) -> DataConfig:
        """The settings of its data set, in the folder `root` if one is given.

        Raises:
            InputError: a classifier, or a checkpoint without config.yaml.
        """
        if self.task == "classification":
            raise InputError(
                "--split measures masks, and this checkpoint is a classifier; kanseg evaluate"
                " scores it"
            )
        path = self.folder / CONFIG
        if not path.is_file():
            raise InputError(
                f"{self.folder} has no {CONFIG} with the settings of the data set; give a"
                " checkpoint of a training run, or no --split"
            )
        data = Config.from_yaml(read_text(path)).data
        if root is None:
            return data
        return replace(data, root=root, prepare=None, folds=0, fold=0)


def read_source(checkpoint: str) -> Source:
    """Read a checkpoint folder, a run (its best weights), or a trained network in a folder of
    `save_pretrained`.

    Raises:
        InputError: no such folder, damaged files, or a network without class names and
            preprocessing.
    """
    if not Path(checkpoint).exists():
        raise InputError(f"{checkpoint}: no such checkpoint folder, such as runs/quickstart/best")
    folder = find_folder(checkpoint)
    if (folder / MANIFEST).exists():
        fault = find_fault(folder)
        if fault is not None:
            raise InputError(f"{folder}: {fault}")
    model = from_pretrained(folder)
    if not {"labels", "preprocess"} <= set(model.description) or "encoder" in model.description:
        raise InputError(
            f"{folder} holds a network without class names and preprocessing; export a checkpoint"
            " of a training run (runs/x/best)"
        )
    return Source(folder, model, model.description)
