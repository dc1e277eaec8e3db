"""Any picture -> a mask of its own size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg import pretrained
from kanseg.checkpoint import MANIFEST, build_model, preprocess_from, read_description, read_weights
from kanseg.data.images import to_channels
from kanseg.data.preprocess import Preprocess
from kanseg.errors import InputError
from kanseg.inference.tiles import flips as flip_axes
from kanseg.inference.tiles import predict_tiled
from kanseg.pretrained import CONFIG


class Predictor:
    """A trained network with what it needs to read pictures: (H, W, C) integers -> (H, W) class indices.

    A network that was trained on resized pictures sees the whole picture at that size; its probabilities are scaled back. One
    that was trained at the pictures' own scale sees them as they are, in overlapping tiles where they are larger than a tile.

    Args:
        model: (B, C, h, w) -> logits (B, N, h, w).
        preprocess: of the training.
        classes: names of the classes.
        colours: an RGB colour per class.
        task: "binary", "multiclass" or "multilabel".
        tile: (h, w) of tiles; None for whole pictures.
        overlap: share of a tile in common with the next one.
        flips: 1, 2 or 4 mirrored predictions that are averaged.
        batch_size: tiles at once.
        device: torch device.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        classes: Sequence[str],
        colours: Sequence[tuple[int, int, int]],
        task: str,
        tile: tuple[int, int] | None = None,
        overlap: float = 0.5,
        flips: int = 1,
        batch_size: int = 8,
        device: str | torch.device | None = None,
    ):
        self.device = _usable_device(device)
        self.model = model.to(self.device).eval()
        self.preprocess = preprocess
        self.classes, self.colours = tuple(classes), [tuple(c) for c in colours]
        self.task = task
        self.tile, self.overlap, self.batch_size = tile, overlap, batch_size
        if tile is not None and min(tile) < 1:
            raise InputError(f"a tile must be at least 1 pixel on each side, got {tile}")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be a share from 0 to below 1, got {overlap}")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.flips = flip_axes(flips)

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path, **options: Any) -> Predictor:
        """A predictor from a checkpoint folder, or from a run folder (its best weights).

        Raises:
            InputError: the folder is no complete checkpoint, and none that `save_pretrained` wrote of a trained network.
        """
        folder = Path(checkpoint)
        if (folder / "best").is_dir():
            folder = folder / "best"
        description, model = _stored(folder)
        if "palette" not in description["labels"]:
            raise InputError(f"{folder} holds a classifier, which gives no masks: kanseg.from_pretrained loads it")
        labels, preprocess = description["labels"], preprocess_from(description["preprocess"])
        options = {key: value for key, value in options.items() if value is not None}
        if preprocess.resize is None:
            options.setdefault("tile", tuple(description["tile"]))
        return cls(model, preprocess, classes=labels["classes"], colours=labels["palette"], task=labels["task"], **options)

    def __call__(self, image: np.ndarray, *, name: str = "picture") -> np.ndarray:
        """(H, W) or (H, W, C) uint8 or uint16 -> (H, W) uint8 class indices, or of a multilabel task (N, H, W) uint8 of 0 and 1."""
        return decide(self.probabilities(image, name=name), self.task).numpy()

    @torch.inference_mode()
    def probabilities(self, image: np.ndarray, *, name: str = "picture") -> Tensor:
        """(H, W) or (H, W, C) uint8 or uint16 -> (classes, H, W) float32 that sum to 1 (a binary network gives both classes).

        Raises:
            InputError: another type or shape, or channels that the network does not take.
        """
        image = self._checked(image, name)
        scaled = self.preprocess.scale(image, name=name)
        values = self._run(partial(_read_window, scaled, self.preprocess), scaled.shape[:2])
        if values.shape[-2:] == image.shape[:2]:
            return values
        return F.interpolate(values[None], size=image.shape[:2], mode="bilinear", align_corners=False)[0]

    @torch.inference_mode()
    def predict_tensor(self, image: Tensor) -> Tensor:
        """A preprocessed picture (C, H, W) -> probabilities (classes, H, W) float32 on the CPU."""
        return self._run(partial(crop, image), tuple(image.shape[-2:]))

    def _run(self, read: Callable[[int, int, int, int], Tensor], shape: tuple[int, int]) -> Tensor:
        """Probabilities (classes, H, W) of a picture that is read by windows, whole or in tiles."""
        if self.tile is None:
            return self._predict(read(0, 0, *shape)[None]).cpu()[0]
        return predict_tiled(self._predict, read, shape, tile=self.tile, overlap=self.overlap, batch_size=self.batch_size)

    def _checked(self, image: np.ndarray, name: str) -> np.ndarray:
        if not isinstance(image, np.ndarray):
            raise InputError(f"{name}: expected a numpy array, got {type(image).__name__}; `kanseg.data.read_image(path)` reads one from a file")
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or image.dtype not in ((np.float32,) if self.preprocess.floats else (np.uint8, np.uint16)) or 0 in image.shape:
            raise InputError(
                f"{name}: expected (H, W) or (H, W, C) of {'float32' if self.preprocess.floats else 'uint8 or uint16'}, got {image.shape} of {image.dtype}"
            )
        return to_channels(image, self.preprocess.channels, name=name)

    def _predict(self, batch: Tensor) -> Tensor:
        """(B, C, h, w) normalised -> probabilities (B, classes, h, w), averaged over the flips."""
        batch = batch.to(self.device)
        views = [class_probabilities(self.model, batch.flip(axes), self.task).flip(axes) for axes in self.flips]
        return torch.stack(views).mean(dim=0)


def _stored(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Description and network of a checkpoint, or of a trained network that `save_pretrained` wrote."""
    if (folder / CONFIG).is_file() and not (folder / MANIFEST).exists():
        description = pretrained.read_description(folder)
        if "preprocess" not in description:
            raise InputError(f"{folder} holds a network without preprocessing: kanseg.from_pretrained loads it")
        return description, pretrained.read_network(folder, description)
    description = read_description(folder)
    model = build_model(description["model"])
    model.load_state_dict(read_weights(folder))
    model.description, model.class_names = description, tuple(description["labels"]["classes"])
    return description, model


def _usable_device(device: str | torch.device | None) -> torch.device:
    """The device, a GPU by default where there is one; InputError for a name that is none, or a GPU that is not there."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return chosen


def class_probabilities(model: nn.Module, batch: Tensor, task: str) -> Tensor:
    """Pictures (B, C, h, w) -> probabilities (B, classes, h, w) float32.

    Of a binary task both classes; they sum to 1 over the classes, but of a multilabel task each is by itself.
    """
    logits = model(batch)
    logits = (logits[0] if isinstance(logits, tuple) else logits).float()
    if task == "multilabel":
        return torch.sigmoid(logits)
    if task == "binary":
        foreground = torch.sigmoid(logits)
        return torch.cat([1 - foreground, foreground], dim=1)
    return torch.softmax(logits, dim=1)


def decide(probabilities: Tensor, task: str) -> Tensor:
    """Probabilities (..., N, H, W) -> label maps uint8: class indices (..., H, W), or of a multilabel task 0 and 1 of each class (..., N, H, W)."""
    decided = probabilities > 0.5 if task == "multilabel" else probabilities.argmax(dim=-3)
    return decided.to(torch.uint8)


def crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """The window of a picture (C, H, W) -> (C, height, width)."""
    return image[:, top : top + height, left : left + width]


def _read_window(image: np.ndarray, preprocess: Preprocess, top: int, left: int, height: int, width: int) -> Tensor:
    return preprocess.normalise(image[top : top + height, left : left + width])
