"""Write TIFF files row by row, which may be larger than the memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile

from kanseg.utils.io import atomic_write

TILE_SIDE = 512  # of the tiles of written files


class TiffRowWriter:
    """Collects rows (rows, W) in a temporary file, then writes them as a tiled TIFF file with
    deflate compression.

    Args:
        target: the file; `write` creates it atomically.
        width: W.
        dtype: of the rows.
    """

    def __init__(self, target: Path, width: int, dtype: str):
        target.parent.mkdir(parents=True, exist_ok=True)
        self.target, self.width, self.dtype, self.height = target, width, np.dtype(dtype), 0
        self._rows = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115 - closed by `close`

    def append(self, rows: np.ndarray) -> None:
        """Add the next rows (rows, W)."""
        self._rows.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.height += len(rows)

    def read(self, top: int, count: int) -> np.ndarray:
        """Read rows that were added, (count, W)."""
        count = min(count, self.height - top)
        size = self.width * self.dtype.itemsize
        self._rows.seek(top * size)
        return np.frombuffer(self._rows.read(count * size), self.dtype).reshape(count, self.width)

    def write(
        self, colors: Sequence[Sequence[int]] | None = None, tags: Sequence[tuple] = ()
    ) -> Path:
        """Write the TIFF file.

        Args:
            colors: RGB colors of the values, which make it a palette file; None for gray.
            tags: further tags, as of `geotiff_tags`.
        """
        options = {"photometric": "minisblack"}
        if colors is not None:
            color_map = np.zeros((3, 256), np.uint16)
            color_map[:, : len(colors)] = np.array(colors, np.uint16).T * 257  # of 8 bits
            options = {"photometric": "palette", "colormap": color_map}
        with atomic_write(self.target) as temporary:
            tifffile.imwrite(
                temporary,
                self._tiles(),
                shape=(self.height, self.width),
                dtype=self.dtype,
                tile=(TILE_SIDE, TILE_SIDE),
                compression="zlib",
                extratags=tags,
                metadata=None,
                **options,
            )
        return self.target

    def close(self) -> None:
        """Delete the temporary file."""
        self._rows.close()

    def _tiles(self) -> Iterator[np.ndarray]:
        for top in range(0, self.height, TILE_SIDE):
            rows = self.read(top, TILE_SIDE)
            for left in range(0, self.width, TILE_SIDE):
                part = rows[:, left : left + TILE_SIDE]
                missing = (TILE_SIDE - part.shape[0], TILE_SIDE - part.shape[1])
                yield np.pad(part, ((0, missing[0]), (0, missing[1])))
