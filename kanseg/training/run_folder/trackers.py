"""Log the scores and images of a run to TensorBoard and Weights & Biases."""

from __future__ import annotations

import io
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kanseg.utils.errors import InputError
from kanseg.utils.installation import install
from kanseg.utils.text import one_line

WIDEST = 1280  # pixels of an image that is logged


class Tracker(ABC):
    """Receives the numbers and images of a run, in the main process."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name at an optimizer step."""

    @abstractmethod
    def image(self, name: str, pixels: Image.Image, step: int) -> None:
        """Log an RGB image at an optimizer step."""

    @abstractmethod
    def close(self) -> None:
        """Write everything that is buffered."""


class TensorBoard(Tracker):
    """Event files in run/tensorboard.

    Args:
        run: folder of the run.
        step: of the checkpoint that is resumed; later events of the interrupted run are hidden.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, run: Path, *, step: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step or None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, pixels: Image.Image, step: int) -> None:
        # As JPEG: PNG images of a few hundred validations would be the largest part of the run
        # folder.
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
    """A run of Weights & Biases, its files in run/wandb; a resumed run keeps the id.

    Args:
        run: folder of the run.
        config: all settings of the experiment.

    Raises:
        InputError: wandb is not installed, or fails to start (no key, no network).
    """

    def __init__(self, run: Path, config: Any):
        wandb = import_wandb()
        folder, mode = run / "wandb", config.training.wandb
        folder.mkdir(parents=True, exist_ok=True)
        id_file = folder / "id.txt"
        options: dict[str, Any] = {
            "dir": str(run),
            "project": config.training.project,
            "name": run.name,
            "mode": mode,
            "config": asdict(config),
        }
        if not id_file.is_file():
            id_file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
        elif mode == "online":
            options["resume"] = "allow"
        options["id"] = id_file.read_text(encoding="utf-8").strip()
        quiet = wandb.Settings(console="off", silent=mode == "offline", disable_git=True)
        try:
            self._run = wandb.init(**options, settings=quiet)
        except wandb.errors.Error as error:
            raise InputError(f"training.wandb {mode}: {one_line(error)}") from None
        self._image = wandb.Image
        # A resumed run repeats steps, which the step counter of W&B would drop.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def image(self, name: str, pixels: Image.Image, step: int) -> None:
        self._run.log({name: self._image(pixels), "step": step})

    def close(self) -> None:
        self._run.finish()


def import_wandb() -> Any:
    """Import wandb.

    Raises:
        InputError: it is not installed.
    """
    # Send no error reports; wandb reads this variable when it is imported.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb

        # a folder of this name in the working directory would import as an empty package
        wandb.init  # noqa: B018
    except (ImportError, AttributeError):
        raise InputError(
            f"training.wandb needs the package wandb: {install('tracking')}, or set it to no"
        ) from None
    return wandb


def open_trackers(
    run: Path, config: Any, *, log: Callable[[str], None], step: int = 0
) -> list[Tracker]:
    """Open the trackers of the settings; without TensorBoard, say so and do without it.

    Args:
        run: folder of the run.
        config: all settings of the experiment.
        log: called with a line of text.
        step: of the checkpoint that is resumed.
    """
    trackers: list[Tracker] = []
    if config.training.wandb != "no":
        trackers.append(WeightsAndBiases(run, config))
    if config.training.tensorboard:
        try:
            trackers.append(TensorBoard(run, step=step))
        except ImportError as error:
            log(f"no TensorBoard events are written ({one_line(error)}): {install('tensorboard')}")
    return trackers


def shrunk(pixels: np.ndarray) -> Image.Image:
    """Convert (H, W, 3) uint8 to an image of at most WIDEST pixels width."""
    image = Image.fromarray(pixels)
    if image.width <= WIDEST:
        return image
    height = round(image.height * WIDEST / image.width)
    return image.resize((WIDEST, height), Image.Resampling.BOX)
