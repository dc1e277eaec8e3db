"""Where the numbers and images of a run are shown while it lasts: TensorBoard, Weights &
Biases.
"""

from __future__ import annotations

import io
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kanseg.utils.errors import InputError

WIDEST = 1280  # pixels of an image that is logged


class Tracker(ABC):
    """Gets the numbers and images of the main process."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, of an optimizer step."""

    @abstractmethod
    def image(self, name: str, pixels: Image.Image, step: int) -> None:
        """An RGB image of an optimizer step."""

    @abstractmethod
    def close(self) -> None:
        """Write what is held back."""


class TensorBoard(Tracker):
    """Event files in run/tensorboard.

    Args:
        run: folder of the run.
        step: the step that is resumed; later events of an earlier start are hidden.
    """

    def __init__(self, run: Path, *, step: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step or None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, pixels: Image.Image, step: int) -> None:
        # As JPEG, which TensorBoard shows as well: as PNG the images of a few hundred validations
        # are larger than all else in the run folder.
        from tensorboard.compat.proto.summary_pb2 import Summary

        stream = io.BytesIO()
        pixels.save(stream, "JPEG", quality=90)
        shown = Summary.Image(
            height=pixels.height,
            width=pixels.width,
            colorspace=3,
            encoded_image_string=stream.getvalue(),
        )
        self._writer.file_writer.add_summary(
            Summary(value=[Summary.Value(tag=name, image=shown)]), step
        )

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, its files in run/wandb; a resumed run goes on under the same id.

    Args:
        run: folder of the run.
        config: all settings of the experiment.

    Raises:
        InputError: wandb is not installed, or refuses (no key, no network).
    """

    def __init__(self, run: Path, config: Any):
        wandb = import_wandb()
        folder, mode = run / "wandb", config.training.wandb
        folder.mkdir(parents=True, exist_ok=True)
        held = folder / "id.txt"
        known = held.is_file()
        if not known:
            held.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
        quiet = wandb.Settings(console="off", silent=mode == "offline", disable_git=True)
        resume = {"resume": "allow"} if known and mode == "online" else {}
        where = {
            "dir": str(run),
            "project": config.training.project,
            "name": run.name,
            "id": held.read_text(encoding="utf-8").strip(),
        }
        try:
            self._run = wandb.init(
                **where, **resume, mode=mode, config=asdict(config), settings=quiet
            )
        except wandb.errors.Error as error:
            raise InputError(
                f"training.wandb {mode}: {' '.join(str(error).split())[:300]}"
            ) from None
        self._image = wandb.Image
        # An axis of our own: a resumed run repeats steps, which W&B's own counter would drop.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def image(self, name: str, pixels: Image.Image, step: int) -> None:
        self._run.log({name: self._image(pixels), "step": step})

    def close(self) -> None:
        self._run.finish()


def import_wandb() -> Any:
    """The package; InputError where it is not installed."""
    os.environ.setdefault(
        "WANDB_ERROR_REPORTING", "false"
    )  # nothing goes out that was not asked for; it is read at the import
    try:
        import wandb

        wandb.init  # noqa: B018 - a folder of this name in the working directory imports as an empty package
    except (ImportError, AttributeError):
        raise InputError(
            "training.wandb needs the package wandb: python -m pip install 'wandb>=0.17', or set it"
            " to no"
        ) from None
    return wandb


def open_trackers(run: Path, config: Any, *, step: int = 0) -> list[Tracker]:
    """Those that the settings ask for; `step` is the one that is resumed."""
    trackers: list[Tracker] = []
    if config.training.wandb != "no":
        trackers.append(WeightsAndBiases(run, config))
    if config.training.tensorboard:
        trackers.append(TensorBoard(run, step=step))
    return trackers


def shrunk(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) uint8 -> an image at most WIDEST wide."""
    small = Image.fromarray(pixels)
    return (
        small
        if small.width <= WIDEST
        else small.resize(
            (WIDEST, round(small.height * WIDEST / small.width)), Image.Resampling.BOX
        )
    )
