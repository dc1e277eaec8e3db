"""TIFF files that are too large for the memory: read by windows, written by rows, and where on the
map they lie.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

import numpy as np
import tifffile

from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.decoded import DecodedImage
from kanseg.data.io.tiff import TiffHeader, header_of, image_of, is_tiff
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write

VIRTUAL_ROWS = 64  # rows that are read at once from a file without compression
SIDE = 512  # of the tiles of written files
GRAY, RGB = 1, 2
PREMULTIPLIED = 1


class TiffImage:
    """A TIFF file that is read by windows; its tiles or strips are decoded when they are needed,
    and kept as long as the windows move on.

    Args:
        path: of the file, for messages.
        page: what `open_tiff` found to be readable by windows.
        header: what its tags say.
    """

    def __init__(self, path: Path, page: tifffile.TiffPage, header: TiffHeader):
        self.name, self._page, self._header = str(path), page, header
        self.shape, self.channels = header.shape, header.bands
        self._plain = (
            page.is_contiguous
            and page.compression == 1
            and page.predictor == 1
            and page.planarconfig == 1
        )
        if self._plain:
            self._block = (min(VIRTUAL_ROWS, self.shape[0]), self.shape[1])
        else:
            self._block = (
                (page.tilelength, page.tilewidth)
                if page.is_tiled
                else (min(page.rowsperstrip, self.shape[0]), self.shape[1])
            )
        if min(self._block) < 1:
            raise InputError(f"{self.name}: damaged, its tiles or strips have no pixels")
        self._columns = -(-self.shape[1] // self._block[1])
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._kept, self._lock = 0, Lock()

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window (height, width, C) uint8 or uint16.

        Raises:
            InputError: the file is damaged there.
        """
        return self.window(top, left, height, width).values

    def window(self, top: int, left: int, height: int, width: int) -> DecodedImage:
        """The same with alpha and pixels without data, by the rules for whole files."""
        return image_of(self._stored(top, left, height, width), self._header)

    def _stored(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window as stored."""
        rows, columns = self._block
        window = np.empty((height, width, self.channels), self._page.dtype.newbyteorder("="))
        with self._lock:
            for i in range(top // rows, -(-(top + height) // rows)):
                for j in range(left // columns, -(-(left + width) // columns)):
                    _paste(window, self._decoded(i, j), i * rows - top, j * columns - left)
            self._kept = max(
                self._kept, (-(-height // rows) + 1) * self._columns
            )  # what the next windows of this row, and of the next, have in common with it
            while len(self._cache) > self._kept:
                self._cache.popitem(last=False)
        return window

    def close(self) -> None:
        """Close the file."""
        self._page.parent.close()

    def _decoded(self, i: int, j: int) -> np.ndarray:
        if (i, j) in self._cache:
            self._cache.move_to_end((i, j))
            return self._cache[i, j]
        with decoder_errors(self.name, f" at row {i * self._block[0]}"):
            block = self._rows(i) if self._plain else self._segment(i * self._columns + j)
        self._cache[i, j] = block
        return block

    def _rows(self, i: int) -> np.ndarray:
        """Rows of a file without compression."""
        start = i * self._block[0]
        count = min(self._block[0], self.shape[0] - start)
        row_bytes = self.shape[1] * self.channels * self._page.dtype.itemsize
        data = self._bytes(self._page.dataoffsets[0] + start * row_bytes, count * row_bytes)
        values = np.frombuffer(data, self._page.dtype.newbyteorder(self._page.parent.byteorder))
        return values.reshape(count, self.shape[1], self.channels).astype(
            self._page.dtype.newbyteorder("="), copy=False
        )

    def _segment(self, index: int) -> np.ndarray:
        """A tile or strip, (h, w, C); the bands of a file that stores them one after the other are
        put together.
        """
        page = self._page
        planes = self.channels if page.planarconfig == 2 else 1
        step = len(page.dataoffsets) // planes
        found = []
        for place in range(index, index + planes * step, step):
            offset, count = page.dataoffsets[place], page.databytecounts[place]
            data = self._bytes(offset, count) if count else None  # of a sparse file
            segment, _, shape = page.decode(data, place, jpegtables=page.jpegtables)
            empty = np.full(shape, page.nodata, page.dtype)  # as of whole files: GDAL_NODATA, or 0
            found.append(empty[0] if segment is None else segment[0])
        return found[0] if planes == 1 else np.concatenate(found, axis=-1)

    def _bytes(self, offset: int, count: int) -> bytes:
        handle = self._page.parent.filehandle
        handle.seek(offset)
        data = handle.read(count)
        if len(data) < count:
            raise ValueError("the file ends early")
        return data


def _paste(window: np.ndarray, block: np.ndarray, row: int, column: int) -> None:
    """Copy what a block, whose first pixel lies at (row, column) of the window, has in common with
    it.
    """
    top, left = max(row, 0), max(column, 0)
    bottom, right = (
        min(row + block.shape[0], window.shape[0]),
        min(column + block.shape[1], window.shape[1]),
    )
    window[top:bottom, left:right] = block[top - row : bottom - row, left - column : right - column]


def open_tiff(path: Path, *, max_pixels: int, large: int) -> TiffImage | None:
    """The file for reading by windows; None where it has no more than `large` pixels, or must be
    read as a whole: `read_image` then judges it.

    Raises:
        InputError: more than `max_pixels` pixels, or several pages of one size.
    """
    if not is_tiff(path):
        return None
    with ExitStack() as open_files, decoder_errors(path):
        file = open_files.enter_context(tifffile.TiffFile(path))
        page = file.pages[0]
        header = header_of(path, page, max_pixels)
        if header.shape[0] * header.shape[1] <= large or not _readable(page):
            return None
        if len(file.pages) > 1 and file.pages[1].shape[:2] == page.shape[:2]:
            raise InputError(
                f"{path}: holds {len(file.pages)} images (pages) of one size; save each of them"
                " as a file of its own"
            )
        image = TiffImage(path, page, header)
        open_files.pop_all()  # the image closes the file
    return image


def _readable(page: tifffile.TiffPage) -> bool:
    """Whether the page holds gray, RGB or band values of 8 or 16 bits, upright, in a compression
    that can be undone here; `image_of` says what they mean.
    """
    plain = (
        page.photometric in (GRAY, RGB)
        and page.dtype is not None
        and page.dtype.kind == "u"
        and page.bitspersample in (8, 16)
    )
    upright = page.tags.valueof(274, 1) == 1 and page.imagedepth == 1 and page.fillorder == 1
    return (
        plain
        and upright
        and PREMULTIPLIED not in page.extrasamples
        and page.compression in tifffile.TIFF.DECOMPRESSORS
    )


class RowFile:
    """Rows (rows, W) of one type that are kept on disk until all are there, then written as a tiled
    TIFF with deflate compression.

    Args:
        target: the file to be; it is there when `write` has ended, whole, or not at all.
        width: W.
        dtype: of the rows.
    """

    def __init__(self, target: Path, width: int, dtype: str):
        target.parent.mkdir(parents=True, exist_ok=True)
        self.target, self.width, self.dtype, self.height = target, width, np.dtype(dtype), 0
        self._rows = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115 - closed by `close`

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows (rows, W)."""
        self._rows.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.height += len(rows)

    def read(self, top: int, count: int) -> np.ndarray:
        """Rows that were taken, (count, W)."""
        count = min(count, self.height - top)
        size = self.width * self.dtype.itemsize
        self._rows.seek(top * size)
        return np.frombuffer(self._rows.read(count * size), self.dtype).reshape(count, self.width)

    def write(
        self, colors: Sequence[Sequence[int]] | None = None, tags: Sequence[tuple] = ()
    ) -> Path:
        """Write the TIFF: with colors as a palette file of indices; `tags` as of `geotiff_tags`."""
        look = (
            {"photometric": "minisblack"}
            if colors is None
            else {"photometric": "palette", "colormap": _color_map(colors)}
        )
        shape = (self.height, self.width)
        with atomic_write(self.target) as temporary:
            tifffile.imwrite(
                temporary,
                self._tiles(),
                shape=shape,
                dtype=self.dtype,
                tile=(SIDE, SIDE),
                compression="zlib",
                extratags=tags,
                metadata=None,
                **look,
            )
        return self.target

    def close(self) -> None:
        """Forget the rows."""
        self._rows.close()

    def _tiles(self) -> Iterator[np.ndarray]:
        for top in range(0, self.height, SIDE):
            rows = self.read(top, SIDE)
            for left in range(0, self.width, SIDE):
                part = rows[:, left : left + SIDE]
                yield np.pad(part, ((0, SIDE - part.shape[0]), (0, SIDE - part.shape[1])))


def _color_map(colors: Sequence[Sequence[int]]) -> np.ndarray:
    """(3, 256) uint16 of RGB colors of 8 bits."""
    table = np.zeros((3, 256), np.uint16)
    table[:, : len(colors)] = np.array(colors, np.uint16).T * 257
    return table
