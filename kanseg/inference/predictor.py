"""Predict the masks of images of any size with one trained network."""

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
from kanseg.inference.description import MIN_TILE
from kanseg.inference.loading import TrainedNetwork, load_checkpoint
from kanseg.inference.segmenter import Segmenter, decide
from kanseg.inference.sliding_window import (
    ReadWindow,
    merge_rows,
    rows_per_chunk,
    sliding_window,
)
from kanseg.inference.sources import ArrayImage, WindowedImage
from kanseg.inference.tta import ViewAverage, views
from kanseg.utils.errors import InputError

__all__ = ["Predictor", "crop", "decide", "to_probabilities"]
MODES = ("auto", "whole", "tiles")
DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Predictor(Segmenter):
    """Predict masks of images of any size with a trained network.

    A network that was trained on resized images gets the whole image resized, and its probabilities
    are resized back. A network that was trained on images at their own scale gets them as they are,
    in overlapping tiles if they are larger than a tile.

    Example:
        >>> predictor = Predictor.from_checkpoint("runs/quickstart/best")
        >>> label = predictor(image)  # (H, W, 3) uint8 -> (H, W) class indices
        >>> probabilities = predictor.probabilities(image)  # (N, H, W)

    Args:
        model: (B, C, h, w) -> logits (B, N, h, w); a module, or any function of CPU tensors.
        preprocess: of the training.
        classes: names of the classes.
        colors: an RGB color per class.
        task: "binary", "multiclass" or "multilabel".
        tile: (h, w) of tiles; None for whole images.
        overlap: share of a tile that the next one overlaps.
        flips: number of mirrored predictions to average: 1 (none), 2, 4, or 8 (also rotated by 90
            degrees).
        scales: factors on height and width; predictions of all scaled images (or tiles) and flips
            are averaged.
        batch_size: tiles, or images of one size, per batch.
        precision: "no" (float32), "bf16" or "fp16" for convolutions.
        device: torch device; by default a GPU if there is one.

    Raises:
        InputError: options out of range, or a device that is not available.
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
        if isinstance(model, nn.Module):
            device = usable_device(device)
            model = model.to(device).eval()
        else:
            device = torch.device("cpu")
        self.views = views(flips, scales)
        super().__init__(
            classes, colors, task, device=device, batch_size=batch_size, num_views=len(self.views)
        )
        self.model, self.preprocess, self.precision = model, preprocess, precision
        self.tile = None if tile is None else tuple(tile)
        self.overlap, self.flips, self.scales = overlap, flips, tuple(scales)
        self.digest: str | None = None  # of the weights' file, if there is one

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        mode: str = "auto",
        tile: Sequence[int] | None = None,
        **options: Any,
    ) -> Predictor:
        """Load a predictor from a checkpoint folder, a run folder (its best weights), a folder
        written by `save_pretrained`, or an exported file (.onnx, .pt2).

        Args:
            checkpoint: folder or file.
            mode: "whole" or "tiles"; "auto" depends on the training, or is "tiles" if `tile` is
                given.
            tile: (h, w) of tiles; by default the crop of the training, but at least 512 a side.
            options: of the constructor; None means the default.

        Raises:
            InputError: the folder is not complete, or not of a trained segmentation network.
        """
        return cls.from_network(load_checkpoint(Path(checkpoint)), mode=mode, tile=tile, **options)

    @classmethod
    def from_network(
        cls,
        network: TrainedNetwork,
        *,
        mode: str = "auto",
        tile: Sequence[int] | None = None,
        **options: Any,
    ) -> Predictor:
        """Make a predictor of a loaded network; options and errors as of `from_checkpoint`."""
        if mode not in MODES:
            raise InputError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode == "whole" and tile is not None:
            raise InputError(
                f"mode whole cannot be combined with a tile, got {tuple(tile)}; give only one"
            )
        if network.is_classifier:
            raise InputError(
                "this checkpoint holds a classifier, which predicts no masks; load it with"
                " kanseg.load"
            )
        options = {key: value for key, value in options.items() if value is not None}
        if mode == "whole":
            tile = None
        elif tile is None and (mode == "tiles" or network.preprocess.resize is None):
            tile = network.tile or (MIN_TILE, MIN_TILE)
        predictor = cls(
            network.model,
            network.preprocess,
            classes=network.classes,
            colors=network.colors,
            task=network.task,
            tile=tile,
            **options,
        )
        predictor.digest = network.digest
        return predictor

    def row_chunks(
        self,
        images: Sequence[WindowedImage],
        *,
        variance: bool = False,
        chunk_rows: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """As of `Segmenter.row_chunks`."""
        shape = images[0].shape
        for image in images:
            if image.shape != shape:
                raise ValueError(
                    f"images predicted together must have one size, got {image.shape} and {shape}"
                )
            self.preprocess.fit(image.window(0, 0, 1, 1), name=image.name)  # checks the channels
        chunk_rows = chunk_rows or rows_per_chunk(shape[1])
        size = self.preprocess.resize
        if size is None or tuple(size) == shape:
            size = shape
        else:
            scaled = []
            for image in images:
                values = self.preprocess.scale(image.window(0, 0, *shape), name=image.name)
                scaled.append(ArrayImage(values, image.name))
            images = scaled
        readers = [partial(self._read_window, image) for image in images]
        if self.tile is None:
            maps = self._predict_whole(readers, size, variance)
        elif size == shape:
            return self._predict_tiles(readers, size, variance, chunk_rows)
        else:
            maps = merge_rows(self._predict_tiles(readers, size, variance), size[0])
        return resized_chunks(maps, shape, chunk_rows)

    def predict_tensor(self, image: Tensor) -> Tensor:
        """Predict a preprocessed image (C, H, W): probabilities (N, H, W) float32 on the CPU."""
        shape = tuple(image.shape[-2:])
        readers = [partial(crop, image)]
        if self.tile is None:
            return self._predict_whole(readers, shape, variance=False)[0]
        return merge_rows(self._predict_tiles(readers, shape, variance=False), shape[0])[0]

    def describe(self) -> str:
        """As of `Segmenter.describe`."""
        size = "at their own scale"
        if self.preprocess.resize is not None:
            size = "resized to {}x{}".format(*self.preprocess.resize)
        if self.tile is None:
            return f"{size}, whole"
        return f"{size}, tiles of {self.tile[0]}x{self.tile[1]}"

    def provenance(self) -> list[dict[str, Any]] | None:
        """As of `Segmenter.provenance`."""
        if self.digest is None:
            return None
        tile = None
        if self.tile is not None:
            tile = {"size": list(self.tile), "overlap": self.overlap}
        network = {
            "checkpoint": self.digest,
            "tile": tile,
            "flips": self.flips,
            "scales": list(self.scales),
            "precision": self.precision,
        }
        return [network]

    def _read_window(
        self, image: WindowedImage, top: int, left: int, height: int, width: int
    ) -> Tensor:
        """Read the window (C, height, width) of an image, normalized."""
        window = image.window(top, left, height, width)
        return self.preprocess.normalize(self.preprocess.fit(window, name=image.name))

    def _predict_whole(
        self, readers: Sequence[ReadWindow], shape: Sequence[int], variance: bool
    ) -> Tensor:
        """Predict whole images in batches: (P, N, H, W) on the CPU."""
        maps = []
        for start in range(0, len(readers), self.batch_size):
            batch = [read(0, 0, *shape) for read in readers[start : start + self.batch_size]]
            maps.append(self._predict_batch(torch.stack(batch), variance=variance).cpu())
        return torch.cat(maps)

    def _predict_tiles(
        self,
        readers: Sequence[ReadWindow],
        shape: Sequence[int],
        variance: bool,
        chunk_rows: int | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Predict in tiles: row chunks as of `sliding_window`."""
        return sliding_window(
            partial(self._predict_batch, variance=variance),
            readers,
            tuple(shape),
            tile=self.tile,
            overlap=self.overlap,
            batch_size=self.batch_size,
            chunk_rows=chunk_rows,
        )

    def _predict_batch(self, images: Tensor, *, variance: bool) -> Tensor:
        """Run the network on every view of normalized images or tiles (B, C, h, w).

        Returns:
            (B, N, h, w) mean probabilities on the network's device; with `variance` one channel
            more, as of `ViewAverage`.
        """
        autocast: AbstractContextManager = nullcontext()
        dtype = DTYPES[self.precision]
        if dtype is not None:
            autocast = torch.autocast(self.device.type, dtype)
        with torch.inference_mode(), autocast:
            images = images.to(self.device)
            average = ViewAverage(variance=variance)
            for view in self.views:
                output = self.model(view.apply(images))
                probabilities = to_probabilities(output, self.task)
                average.update(view.undo(probabilities, images.shape[-2:]))
            return average.result()


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return the device, by default a GPU if there is one; InputError if it is not available."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from None
    return chosen


def to_probabilities(output: Tensor | tuple[Tensor, ...], task: str) -> Tensor:
    """Turn the output of a network into probabilities (B, N, h, w) float32 of all N classes.

    They sum to 1 over the classes; those of a multilabel task are independent of each other.

    Args:
        output: logits (B, N, h, w), of a binary task (B, 1, h, w); or a tuple that begins with
            them.
        task: "binary", "multiclass" or "multilabel".
    """
    logits = output[0] if isinstance(output, tuple) else output
    logits = logits.float()
    if task == "multilabel":
        return torch.sigmoid(logits)
    if task == "binary":
        foreground = torch.sigmoid(logits)
        return torch.cat([1 - foreground, foreground], dim=1)
    return torch.softmax(logits, dim=1)


def crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Cut the window (C, height, width) out of an image (C, H, W)."""
    return image[:, top : top + height, left : left + width]


def resized_chunks(
    maps: Tensor, shape: Sequence[int], chunk_rows: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, rows) of maps (P, N, h, w) scaled to `shape` (H, W), a chunk at a time."""
    for top in range(0, shape[0], chunk_rows):
        yield top, resized_rows(maps, shape, top, min(top + chunk_rows, shape[0]))


def resized_rows(maps: Tensor, shape: Sequence[int], top: int, bottom: int) -> Tensor:
    """Rows `top` to `bottom` (exclusive) of maps (P, N, h, w) scaled bilinearly to `shape` (H, W).

    The values are those of `F.interpolate`, without allocating all rows.
    """
    height, width = maps.shape[-2:]
    if (height, width) == tuple(shape):
        return maps[..., top:bottom, :]
    rows = torch.arange(top, bottom, dtype=torch.float64)
    source = ((rows + 0.5) * (height / shape[0]) - 0.5).clamp(0, height - 1)
    above = source.floor().long()
    below = (above + 1).clamp_max(height - 1)
    weight = (source - above).float()[:, None]
    scaled = torch.lerp(maps[..., above, :], maps[..., below, :], weight)
    if shape[1] == width:
        return scaled
    size = (bottom - top, shape[1])
    return F.interpolate(scaled, size=size, mode="bilinear", align_corners=False)
