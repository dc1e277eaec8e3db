"""Large images in overlapping tiles, blended by a Gaussian; only the rows of open tiles are
held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from typing import TypeVar

import torch
from torch import Tensor

from kanseg.utils.prefetch import ahead

T = TypeVar("T")
PIECE = 2**21  # pixels of finished rows that are given at once
Read = Callable[[int, int, int, int], Tensor]


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """First pixels of tiles that cover `length`, at most `stride` apart, evenly spread, the last
    one ending at the border.
    """
    if length <= tile:
        return [0]
    count = -(-(length - tile) // stride) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_places(
    shape: Sequence[int], tile: Sequence[int], overlap: float
) -> tuple[list[int], list[int], int, int]:
    """(first rows, first columns, height, width) of the tiles of an image of size `shape`."""
    height, width = min(tile[0], shape[0]), min(tile[1], shape[1])
    rows = tile_starts(shape[0], height, max(1, int(height * (1 - overlap))))
    columns = tile_starts(shape[1], width, max(1, int(width * (1 - overlap))))
    return rows, columns, height, width


def gaussian_window(height: int, width: int) -> Tensor:
    """(height, width) weights: 1 in the middle, a Gaussian of an eighth of the side as standard
    deviation, never 0.
    """

    def profile(size: int) -> Tensor:
        x = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        return torch.exp(-0.5 * (x / (size / 8)) ** 2)

    return torch.outer(profile(height), profile(width)).clamp_min(1e-3)


def tile_bands(
    predict: Callable[[Tensor], Tensor],
    reads: Sequence[Read],
    shape: tuple[int, int],
    *,
    tile: Sequence[int],
    overlap: float,
    batch_size: int,
) -> Iterator[tuple[int, Tensor]]:
    """(first row, probabilities (P, N, rows, W) on the CPU) of P images of one size, from top to
    bottom, each row once.

    Args:
        predict: tiles (B, C, h, w) -> probabilities (B, N, h, w), on any device.
        reads: of each image: (top, left, height, width) -> (C, height, width) normalized pixels.
        shape: (H, W).
        tile: (h, w); an image that is smaller on a side is covered by tiles of its own length
            there.
        overlap: share of a tile that it has in common with the next one, 0 to below 1.
        batch_size: tiles that are predicted together.
    """
    rows, columns, height, width = tile_places(shape, tile, overlap)
    places = product(rows, columns, range(len(reads)))

    def load(batch: list[tuple[int, int, int]]) -> tuple[list[tuple[int, int, int]], Tensor]:
        return batch, torch.stack(
            [reads[image](row, column, height, width) for row, column, image in batch]
        )

    band, window = None, gaussian_window(height, width)
    for batch, tiles in ahead(load, _batches(places, batch_size)):
        probabilities = predict(tiles)
        band = band or _Band(len(reads), probabilities, window, shape[1])
        for (row, column, image), values in zip(batch, probabilities, strict=True):
            if row > band.top:
                yield from band.finished(row)
            band.add(values, column, image)
    yield from band.finished(shape[0])


class _Band:
    """The rows that the tiles of one row of tiles cover: sums of weighted probabilities, and of the
    weights in the last channel.
    """

    def __init__(self, images: int, like: Tensor, window: Tensor, width: int):
        self.top, self.window = 0, window.to(like.device)
        self.sums = like.new_zeros((images, like.shape[1] + 1, window.shape[0], width))

    def add(self, values: Tensor, column: int, image: int) -> None:
        """Blend a tile (N, h, w) in, its first column there."""
        place = self.sums[image, :, :, column : column + self.window.shape[1]]
        place[:-1].addcmul_(values, self.window)
        place[-1].add_(self.window)

    def finished(self, row: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, probabilities (P, N, rows, W)) of the rows before `row`, to which no tile
        adds any more; the band then begins there.
        """
        count, step = row - self.top, max(1, PIECE // self.sums.shape[-1])
        for top in range(0, count, step):
            done = self.sums[:, :, top : min(top + step, count)]
            yield self.top + top, (done[:, :-1] / done[:, -1:]).cpu()
        self._move(count)
        self.top = row

    def _move(self, count: int) -> None:
        """Drop the first rows. In place, piece by piece (none overlaps the place it goes to): a
        second band would be the largest thing in memory.
        """
        rest = self.sums.shape[2] - count
        for top in range(0, rest, count):
            end = min(top + count, rest)
            self.sums[:, :, top:end] = self.sums[:, :, top + count : end + count]
        self.sums[:, :, rest:] = 0


def gathered(bands: Iterable[tuple[int, Tensor]], height: int) -> Tensor | None:
    """Bands (..., rows, W) put together to (..., height, W); None of none."""
    whole = None
    for top, values in bands:
        if values.shape[-2] == height:
            return values
        if whole is None:
            whole = values.new_empty((*values.shape[:-2], height, values.shape[-1]))
        whole[..., top : top + values.shape[-2], :] = values
    return whole


def predict_tiled(
    predict: Callable[[Tensor], Tensor],
    read: Read,
    shape: tuple[int, int],
    *,
    tile: Sequence[int],
    overlap: float,
    batch_size: int,
) -> Tensor:
    """Probabilities (N, H, W) of one image, by tiles; arguments as of `tile_bands`."""
    return gathered(
        tile_bands(predict, [read], shape, tile=tile, overlap=overlap, batch_size=batch_size),
        shape[0],
    )[0]


def _batches(places: Iterable[T], size: int) -> Iterator[list[T]]:
    places = iter(places)
    while batch := list(islice(places, size)):
        yield batch
