"""Large pictures in overlapping tiles, blended by a Gaussian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """First pixels of tiles that cover `length`, at most `stride` apart, evenly spread, the last one ending at the border."""
    if length <= tile:
        return [0]
    count = -(-(length - tile) // stride) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def gaussian_window(height: int, width: int) -> Tensor:
    """(height, width) weights: 1 in the middle, a Gaussian of an eighth of the side as standard deviation, never 0."""

    def profile(size: int) -> Tensor:
        x = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        return torch.exp(-0.5 * (x / (size / 8)) ** 2)

    return torch.outer(profile(height), profile(width)).clamp_min(1e-3)


def predict_tiled(
    predict: Callable[[Tensor], Tensor],
    read: Callable[[int, int, int, int], Tensor],
    shape: tuple[int, int],
    *,
    tile: tuple[int, int],
    overlap: float,
    batch_size: int,
) -> Tensor:
    """Probabilities (N, H, W) of a picture of size `shape`, by tiles.

    Args:
        predict: tiles (B, C, h, w) -> probabilities (B, N, h, w).
        read: (top, left, height, width) -> (C, height, width) normalised pixels.
        shape: (H, W).
        tile: (h, w); a picture that is smaller on a side is covered by tiles of its own length there.
        overlap: share of a tile that it has in common with the next one, 0 to below 1.
        batch_size: tiles that are predicted together.
    """
    height, width = min(tile[0], shape[0]), min(tile[1], shape[1])
    rows = tile_starts(shape[0], height, max(1, int(height * (1 - overlap))))
    columns = tile_starts(shape[1], width, max(1, int(width * (1 - overlap))))
    window = gaussian_window(height, width)
    total, weight = None, torch.zeros(shape)
    for places in _batches(((row, column) for row in rows for column in columns), batch_size):
        probabilities = predict(torch.stack([read(row, column, height, width) for row, column in places])).cpu()
        if total is None:
            total = torch.zeros((probabilities.shape[1], *shape))
        for (row, column), values in zip(places, probabilities, strict=True):
            total[:, row : row + height, column : column + width] += values * window
            weight[row : row + height, column : column + width] += window
    return total / weight


def _batches(places: Iterator[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    while batch := list(islice(places, size)):
        yield batch


def flips(count: int) -> list[tuple[int, ...]]:
    """Axes of (..., H, W) to flip for test-time augmentation: 1 = none, 2 = also left-right, 4 = both axes and their product."""
    options: dict[int, list[tuple[int, ...]]] = {1: [()], 2: [(), (-1,)], 4: [(), (-1,), (-2,), (-2, -1)]}
    if count not in options:
        raise ValueError(f"flips must be 1, 2 or 4, got {count}")
    return options[count]
