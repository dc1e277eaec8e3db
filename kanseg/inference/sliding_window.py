"""Predict large images in overlapping tiles, blended with Gaussian weights.

Finished rows are yielded as row chunks. Only rows that further tiles overlap are held, so an image
may be larger than the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from kanseg.utils.iteration import prefetch

CHUNK_PIXELS = 2**21  # of a row chunk
ReadWindow = Callable[[int, int, int, int], Tensor]  # top, left, height, width -> (C, h, w)


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """First pixels of the tiles along a side: evenly spaced, at most `stride` apart, with the last
    tile ending at the border.
    """
    if length <= tile:
        return [0]
    count = -(-(length - tile) // stride) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_positions(
    shape: Sequence[int], tile: Sequence[int], overlap: float
) -> tuple[list[int], list[int], int, int]:
    """(first rows, first columns, height, width) of the tiles of an image of size `shape`."""
    height, width = min(tile[0], shape[0]), min(tile[1], shape[1])
    rows = tile_starts(shape[0], height, max(1, int(height * (1 - overlap))))
    columns = tile_starts(shape[1], width, max(1, int(width * (1 - overlap))))
    return rows, columns, height, width


def gaussian_window(height: int, width: int) -> Tensor:
    """Gaussian weights (height, width): 1 in the center, with a standard deviation of an eighth of
    the side, and at least 0.001.
    """

    def profile(size: int) -> Tensor:
        x = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        return torch.exp(-0.5 * (x / (size / 8)) ** 2)

    return torch.outer(profile(height), profile(width)).clamp_min(1e-3)


def rows_per_chunk(width: int) -> int:
    """Rows of a row chunk of an image of `width` columns."""
    return max(1, CHUNK_PIXELS // width)


def sliding_window(
    predict: Callable[[Tensor], Tensor],
    readers: Sequence[ReadWindow],
    shape: tuple[int, int],
    *,
    tile: Sequence[int],
    overlap: float,
    batch_size: int,
    chunk_rows: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Predict P images of one size in tiles; the next tiles are read while these are predicted.

    Args:
        predict: tiles (B, C, h, w) -> probabilities (B, N, h, w), on any device.
        readers: one function per image: (top, left, height, width) -> (C, height, width).
        shape: (H, W) of the images.
        tile: (h, w); an image that is smaller on a side gets tiles of its own length there.
        overlap: share of a tile that the next one overlaps, 0 to below 1.
        batch_size: tiles per batch.
        chunk_rows: rows of a chunk (the last may have fewer); by default `rows_per_chunk`.

    Yields:
        (first row, probabilities (P, N, rows, W) on the CPU) of each row chunk, top to bottom.
    """
    chunk_rows = chunk_rows or rows_per_chunk(shape[1])
    rows, columns, height, width = tile_positions(shape, tile, overlap)
    tiles_of_images = list(product(rows, columns, range(len(readers))))
    batches = []
    for start in range(0, len(tiles_of_images), batch_size):
        batches.append(tiles_of_images[start : start + batch_size])

    def read_tiles(batch: list[tuple[int, int, int]]) -> Tensor:
        tiles = [readers[image](row, column, height, width) for row, column, image in batch]
        return torch.stack(tiles)

    buffer = None
    for batch, tiles in zip(batches, prefetch(map(read_tiles, batches)), strict=True):
        probabilities = predict(tiles)
        if buffer is None:
            size = (len(readers), probabilities.shape[1], min(chunk_rows + height, shape[0]))
            buffer = _RowBuffer(probabilities.new_zeros(*size, shape[1]), (height, width))
        for (row, column, image), values in zip(batch, probabilities, strict=True):
            while row >= buffer.top + chunk_rows:  # no further tile reaches this chunk
                yield buffer.top, buffer.pop(chunk_rows)
            buffer.add(values, row, column, image)
    while buffer.top < shape[0]:
        yield buffer.top, buffer.pop(min(chunk_rows, shape[0] - buffer.top))


class _RowBuffer:
    """Blends tiles into a window of rows of P images, which moves down as rows are finished.

    Args:
        sums: (P, N, rows, W) zeros.
        tile: (h, w).
    """

    def __init__(self, sums: Tensor, tile: tuple[int, int]):
        self.top = 0  # row in the images of the first row of the buffer
        self._sums = sums
        self._window = gaussian_window(*tile).to(sums.device)
        self._weights = torch.zeros_like(sums[:, :1])

    def add(self, values: Tensor, row: int, column: int, image: int) -> None:
        """Blend in a tile (N, h, w) whose first pixel is at (row, column) of an image."""
        height, width = self._window.shape
        below = slice(row - self.top, row - self.top + height)
        right = slice(column, column + width)
        self._sums[image, :, below, right].addcmul_(values, self._window)
        self._weights[image, 0, below, right].add_(self._window)

    def pop(self, count: int) -> Tensor:
        """Return the first rows, (P, N, count, W) on the CPU, and move the others up."""
        chunk = (self._sums[:, :, :count] / self._weights[:, :, :count]).cpu()
        self.top += count
        for values in (self._sums, self._weights):
            _move_up(values, count)
        return chunk


def _move_up(values: Tensor, count: int) -> None:
    """Shift the rows of (..., rows, W) up by `count`, in place, and fill with zeros.

    The rows are moved in pieces that do not overlap their destination, since a full copy would be
    the largest tensor in memory.
    """
    rest = values.shape[-2] - count
    for top in range(0, rest, count):
        end = min(top + count, rest)
        values[..., top:end, :] = values[..., top + count : end + count, :]
    values[..., rest:, :] = 0


def put_rows(whole: Tensor | None, top: int, rows: Tensor, height: int) -> Tensor:
    """Copy a row chunk (..., rows, W) into (..., height, W), which is allocated if it is None. A
    chunk with all rows is returned as it is.
    """
    if rows.shape[-2] == height:
        return rows
    if whole is None:
        whole = rows.new_empty((*rows.shape[:-2], height, rows.shape[-1]))
    whole[..., top : top + rows.shape[-2], :] = rows
    return whole


def merge_rows(chunks: Iterable[tuple[int, Tensor]], height: int) -> Tensor:
    """Concatenate the row chunks (first row, (..., rows, W)) of an image to (..., height, W)."""
    whole = None
    for top, rows in chunks:
        whole = put_rows(whole, top, rows, height)
    return whole
