"""Typed settings of experiments; YAML and command line are read by kanseg.command_line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from kanseg.command_line import E, from_yaml, parse
from kanseg.names import temporary_beside
from kanseg.sections import (
    ClassificationData,
    ClassificationTraining,
    DataConfig,
    ModelConfig,
    TrainingConfig,
)

__all__ = [
    "ClassificationConfig",
    "ClassificationData",
    "ClassificationTraining",
    "Config",
    "DataConfig",
    "ModelConfig",
    "TrainingConfig",
    "parse_config",
    "write_text",
]


@dataclass
class _Experiment:
    """One experiment.

    Args:
        run_dir: folder for everything that the run writes.
        seed: of weights, order and augmentation.
    """

    run_dir: str = "runs/run"
    seed: int = 0

    def to_yaml(self) -> str:
        """The complete settings; `from_yaml` reads them back equal."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str):
        """The settings in a YAML text; what it leaves out has its default.

        Raises:
            InputError: unknown keys, wrong types.
        """
        return from_yaml(cls, text)


@dataclass
class Config(_Experiment):
    """A segmentation experiment.

    Args:
        data: the pictures.
        model: the network.
        training: the training.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass
class ClassificationConfig(_Experiment):
    """A classification experiment.

    Args:
        data: the pictures.
        model: the network.
        training: the training.
    """

    data: ClassificationData = field(default_factory=ClassificationData)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="simple_kan_4"))
    training: ClassificationTraining = field(default_factory=ClassificationTraining)


def parse_config(
    argv: Sequence[str] | None,
    *,
    description: str = "",
    flags: dict[str, str] | None = None,
    kind: type[E] = Config,
) -> tuple[E, dict[str, bool]]:
    """The settings of a command line, and the given on/off flags beside them:
    `kanseg.command_line.parse`.
    """
    return parse(argv, description=description, flags=flags, kind=kind)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, also where the power fails or several processes write
    it at once.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
