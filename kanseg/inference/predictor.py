"""A trained network: any image -> a mask of its own size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.data.preprocess import Preprocess
from kanseg.inference.loading import load_checkpoint
from kanseg.inference.segmenter import Segmenter, decide
from kanseg.inference.sliding_window import gathered, tile_bands
from kanseg.inference.sources import ArrayImage, WindowedImage
from kanseg.inference.tta import averaged, views
from kanseg.utils.errors import InputError

__all__ = ["Predictor", "class_probabilities", "crop", "decide"]
MODES = ("auto", "whole", "tiles")
TILE = (512, 512)
DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
BAND = 2**22  # pixels that are scaled back at once


class Predictor(Segmenter):
    """A trained network with what it needs to read images: (H, W, C) integers -> (H, W) class
    indices.

    A network that was trained on resized images sees the whole image at that size; its
    probabilities are scaled back. One that was trained at the images' own scale sees them as they
    are, in overlapping tiles where they are larger than a tile.

    Args:
        model: (B, C, h, w) -> logits (B, N, h, w); a module, or any function (which then runs where
            it likes, on CPU tensors).
        preprocess: of the training.
        classes: names of the classes.
        colors: an RGB color per class.
        task: "binary", "multiclass" or "multilabel".
        tile: (h, w) of tiles; None for whole images.
        overlap: share of a tile in common with the next one.
        flips: 1, 2 or 4 mirrored predictions that are averaged, or 8: these also turned by 90
            degrees.
        scales: factors on height and width of the images, or tiles, that are averaged too, each
            with every flip.
        batch_size: tiles, or images of one size, at once.
        precision: "no" (float32), "bf16" or "fp16" for convolutions.
        device: torch device.

    Raises:
        InputError: options out of range, or a device that is not there.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        preprocess: Preprocess,
        *,
        classes: Sequence[str],
        colors: Sequence[Sequence[int]],
        task: str,
        tile: Sequence[int] | None = None,
        overlap: float = 0.5,
        flips: int = 1,
        scales: Sequence[float] = (1.0,),
        batch_size: int = 8,
        precision: str = "no",
        device: str | torch.device | None = None,
    ):
        if tile is not None and (len(tile) != 2 or min(tile) < 1):
            raise InputError(f"a tile must be at least 1 pixel on each side, got {tile}")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be a share from 0 to below 1, got {overlap}")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if precision not in DTYPES:
            raise InputError(f"precision must be one of {', '.join(DTYPES)}, got {precision!r}")
        self.views = views(flips, scales)
        is_module = isinstance(model, nn.Module)
        place = _usable_device(device if is_module else "cpu")
        super().__init__(
            classes, colors, task, device=place, batch_size=batch_size, looks=len(self.views)
        )
        self.model = model.to(place).eval() if is_module else model
        self.preprocess, self.precision = preprocess, precision
        self.tile, self.overlap = None if tile is None else tuple(tile), overlap

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        mode: str = "auto",
        tile: Sequence[int] | None = None,
        **options: Any,
    ) -> Predictor:
        """A predictor from a checkpoint folder, a run folder (its best weights), or an exported
        file (.onnx, .pt2).

        Args:
            checkpoint: folder or file.
            mode: "whole" or "tiles"; "auto" does as the network was trained, or tiles where `tile`
                is given.
            tile: (h, w) of tiles; by default the one of the training or 512x512.
            options: of the constructor; None stands for the default.

        Raises:
            InputError: the folder is no complete checkpoint, and none that `save_pretrained` wrote
                of a trained network.
        """
        if mode not in MODES:
            raise InputError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode == "whole" and tile is not None:
            raise InputError(
                f"mode whole knows no tiles, got tile {tuple(tile)}: leave one of the two out"
            )
        stored = load_checkpoint(Path(checkpoint))
        options = {key: value for key, value in options.items() if value is not None}
        if mode == "whole":
            tile = None
        elif tile is None and (mode == "tiles" or stored.preprocess.resize is None):
            tile = stored.tile or TILE
        return cls(
            stored.model,
            stored.preprocess,
            classes=stored.classes,
            colors=stored.colors,
            task=stored.task,
            tile=tile,
            **options,
        )

    @torch.inference_mode()
    def bands(
        self, images: Sequence[WindowedImage], *, variance: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """As of `Segmenter.bands`."""
        shape = images[0].shape
        for image in images:
            if image.shape != shape:
                raise ValueError(
                    f"images predicted together must have one size, got {image.shape} and {shape}"
                )
            self.preprocess.fit(image.window(0, 0, 1, 1), name=image.name)
        size = self.preprocess.resize
        if size is None or tuple(size) == shape:
            yield from self._bands([self._reader(image) for image in images], shape, variance)
            return
        reads = [
            self._reader(ArrayImage(self.preprocess.scale(image.window(0, 0, *shape)), image.name))
            for image in images
        ]
        values = gathered(self._bands(reads, size, variance), size[0])
        step = max(1, BAND // shape[1])
        for top in range(0, shape[0], step):
            yield top, scaled_rows(values, shape, top, min(top + step, shape[0]))

    @torch.inference_mode()
    def predict_tensor(self, image: Tensor) -> Tensor:
        """A preprocessed image (C, H, W) -> probabilities (classes, H, W) float32 on the CPU."""
        shape = tuple(image.shape[-2:])
        return gathered(self._bands([partial(crop, image)], shape, False), shape[0])[0]

    def settings(self) -> str:
        """In words, how images are seen."""
        resize = self.preprocess.resize
        seen = f"resized to {resize[0]}x{resize[1]}" if resize else "at their own scale"
        return f"{seen}, {f'tiles of {self.tile[0]}x{self.tile[1]}' if self.tile else 'whole'}"

    def _reader(self, image: WindowedImage) -> Callable[[int, int, int, int], Tensor]:
        def read(top: int, left: int, height: int, width: int) -> Tensor:
            return self.preprocess.normalize(
                self.preprocess.fit(image.window(top, left, height, width), name=image.name)
            )

        return read

    def _bands(
        self,
        reads: Sequence[Callable[[int, int, int, int], Tensor]],
        shape: Sequence[int],
        variance: bool,
    ) -> Iterator[tuple[int, Tensor]]:
        """Bands of images of one size at the scale that the network sees, whole or in tiles."""
        predict = partial(self._predict, variance=variance)
        if self.tile is not None:
            yield from tile_bands(
                predict,
                reads,
                tuple(shape),
                tile=self.tile,
                overlap=self.overlap,
                batch_size=self.batch_size,
            )
            return
        for_batches = [
            reads[i : i + self.batch_size] for i in range(0, len(reads), self.batch_size)
        ]
        yield (
            0,
            torch.cat(
                [
                    predict(torch.stack([read(0, 0, *shape) for read in some])).cpu()
                    for some in for_batches
                ]
            ),
        )

    def _predict(self, batch: Tensor, variance: bool) -> Tensor:
        """(B, C, h, w) normalized -> probabilities (B, classes, h, w), averaged over the views;
        with `variance` a channel more.
        """
        with self._autocast():
            return averaged(
                partial(class_probabilities, self.model, task=self.task),
                batch.to(self.device),
                self.views,
                variance=variance,
            )

    def _autocast(self) -> AbstractContextManager:
        dtype = DTYPES[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def _usable_device(device: str | torch.device | None) -> torch.device:
    """The device, a GPU by default where there is one; InputError for a name that is none, or a GPU
    that is not there.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from None
    return chosen


def class_probabilities(model: Callable[[Tensor], Tensor], batch: Tensor, task: str) -> Tensor:
    """Images (B, C, h, w) -> probabilities (B, classes, h, w) float32.

    Of a binary task both classes; they sum to 1 over the classes, but of a multilabel task each is
    by itself.
    """
    logits = model(batch)
    logits = (logits[0] if isinstance(logits, tuple) else logits).float()
    if task == "multilabel":
        return torch.sigmoid(logits)
    if task == "binary":
        foreground = torch.sigmoid(logits)
        return torch.cat([1 - foreground, foreground], dim=1)
    return torch.softmax(logits, dim=1)


def crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """The window of an image (C, H, W) -> (C, height, width)."""
    return image[:, top : top + height, left : left + width]


def scaled_rows(values: Tensor, shape: Sequence[int], top: int, bottom: int) -> Tensor:
    """Rows from `top` to before `bottom` of maps (P, N, h, w) scaled bilinearly to `shape` (H, W),
    without the other rows.
    """
    height, width = values.shape[-2:]
    place = (
        (torch.arange(top, bottom, dtype=torch.float64) + 0.5) * (height / shape[0]) - 0.5
    ).clamp(0, height - 1)
    above = place.floor().long()
    below = (above + 1).clamp_max(height - 1)
    share = (place - above).float()[:, None]
    rows = torch.lerp(values[..., above, :], values[..., below, :], share)
    return (
        rows
        if shape[1] == width
        else F.interpolate(
            rows, size=(bottom - top, shape[1]), mode="bilinear", align_corners=False
        )
    )
