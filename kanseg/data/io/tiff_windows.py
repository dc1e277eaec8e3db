"""Read windows of TIFF files that may be larger than the memory."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

import numpy as np
import tifffile

from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.decoded import DecodedImage
from kanseg.data.io.tiff import (
    BLACK_IS_ZERO,
    PREMULTIPLIED,
    RGB,
    TiffHeader,
    header_of,
    image_of,
    is_tiff,
    several_pages,
)
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

UNCOMPRESSED_ROWS = 64  # that are read at once from a file without compression


class TiffImage:
    """Reads windows of a TIFF file that may be larger than the memory.

    Tiles or strips are decoded when a window needs them, and cached as long as the next windows,
    from left to right and from top to bottom, need them too. Threads may share an instance.

    Args:
        page: of the open file; `open_tiff` checks that it can be read by windows.
        header: of the page.

    Raises:
        InputError: tiles or strips without pixels.
    """

    def __init__(self, page: tifffile.TiffPage, header: TiffHeader):
        self.name = str(header.path)
        self.shape, self.channels = header.shape, header.bands
        self._page, self._header = page, header
        self._uncompressed = (
            page.is_contiguous
            and page.compression == 1
            and page.predictor == 1
            and page.planarconfig == 1
        )
        if self._uncompressed:
            self._block = (min(UNCOMPRESSED_ROWS, self.shape[0]), self.shape[1])
        elif page.is_tiled:
            self._block = (page.tilelength, page.tilewidth)
        else:
            self._block = (min(page.rowsperstrip, self.shape[0]), self.shape[1])
        if min(self._block) < 1:
            raise InputError("damaged, its tiles or strips have no pixels", where=self.name)
        self._columns = -(-self.shape[1] // self._block[1])
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cache_size, self._lock = 0, Lock()

    @property
    def cached_blocks(self) -> int:
        """Number of decoded tiles or strips in memory."""
        return len(self._cache)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Read the window (height, width, C) uint8 or uint16.

        Raises:
            InputError: the file is damaged there.
        """
        return self.window(top, left, height, width).values

    def window(self, top: int, left: int, height: int, width: int) -> DecodedImage:
        """Read a window with its alpha and pixels without data, by the table of `tiff.py`."""
        return image_of(self._stored_window(top, left, height, width), self._header)

    def close(self) -> None:
        """Close the file."""
        self._page.parent.close()

    def _stored_window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        rows, columns = self._block
        window = np.empty((height, width, self.channels), self._page.dtype.newbyteorder("="))
        with self._lock:
            for i in range(top // rows, -(-(top + height) // rows)):
                for j in range(left // columns, -(-(left + width) // columns)):
                    _copy_block(window, self._block_at(i, j), i * rows - top, j * columns - left)
            # The next windows of these rows, and of the next rows, need this number of blocks.
            self._cache_size = max(self._cache_size, (-(-height // rows) + 1) * self._columns)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return window

    def _block_at(self, i: int, j: int) -> np.ndarray:
        if (i, j) in self._cache:
            self._cache.move_to_end((i, j))
            return self._cache[i, j]
        with decoder_errors(self.name, translate(" at row {row}", row=i * self._block[0])):
            if self._uncompressed:
                block = self._uncompressed_rows(i)
            else:
                block = self._decode_segment(i * self._columns + j)
        self._cache[i, j] = block
        return block

    def _uncompressed_rows(self, i: int) -> np.ndarray:
        start = i * self._block[0]
        count = min(self._block[0], self.shape[0] - start)
        row_bytes = self.shape[1] * self.channels * self._page.dtype.itemsize
        data = self._read_bytes(self._page.dataoffsets[0] + start * row_bytes, count * row_bytes)
        values = np.frombuffer(data, self._page.dtype.newbyteorder(self._page.parent.byteorder))
        values = values.reshape(count, self.shape[1], self.channels)
        return values.astype(self._page.dtype.newbyteorder("="), copy=False)

    def _decode_segment(self, index: int) -> np.ndarray:
        """Decode a tile or strip, (h, w, C); bands that are stored separately are joined."""
        page = self._page
        planes = 1
        if page.planarconfig == 2:
            planes = self.channels
        per_plane = len(page.dataoffsets) // planes
        found = []
        for number in range(index, index + planes * per_plane, per_plane):
            offset, count = page.dataoffsets[number], page.databytecounts[number]
            data = None
            if count:
                data = self._read_bytes(offset, count)
            segment, _, shape = page.decode(data, number, jpegtables=page.jpegtables)
            if segment is None:  # left out of a sparse file: fill with GDAL_NODATA, or 0
                segment = np.full(shape, page.nodata, page.dtype)
            found.append(segment[0])
        if planes == 1:
            return found[0]
        return np.concatenate(found, axis=-1)

    def _read_bytes(self, offset: int, count: int) -> bytes:
        handle = self._page.parent.filehandle
        handle.seek(offset)
        data = handle.read(count)
        if len(data) < count:
            raise ValueError("the file ends early")
        return data


def _copy_block(window: np.ndarray, block: np.ndarray, row: int, column: int) -> None:
    """Copy the part of a block that overlaps the window; its first pixel is at (row, column)."""
    top, left = max(row, 0), max(column, 0)
    bottom = min(row + block.shape[0], window.shape[0])
    right = min(column + block.shape[1], window.shape[1])
    window[top:bottom, left:right] = block[top - row : bottom - row, left - column : right - column]


def open_tiff(path: Path, *, max_pixels: int, large: int) -> TiffImage | None:
    """Open a TIFF file for reading by windows; None if it has at most `large` pixels, or must be
    read as a whole (`read_tiff_image`).

    Raises:
        InputError: more than `max_pixels` pixels, or several pages of one size.
    """
    if not is_tiff(path):
        return None
    with ExitStack() as open_files, decoder_errors(path):
        file = open_files.enter_context(tifffile.TiffFile(path))
        page = file.pages[0]
        header = header_of(path, page, max_pixels)
        if header.shape[0] * header.shape[1] <= large or not _windows_readable(page):
            return None
        if len(file.pages) > 1 and file.pages[1].shape[:2] == page.shape[:2]:
            raise several_pages(path, len(file.pages))
        image = TiffImage(page, header)
        open_files.pop_all()  # the image closes the file
    return image


def _windows_readable(page: tifffile.TiffPage) -> bool:
    """True for gray, RGB or band values of 8 or 16 bits, upright, in a compression that tifffile
    decodes.
    """
    integers = page.dtype is not None and page.dtype.kind == "u" and page.bitspersample in (8, 16)
    upright_pixels = page.tags.valueof(274, 1) == 1 and page.imagedepth == 1 and page.fillorder == 1
    return (
        page.photometric in (BLACK_IS_ZERO, RGB)
        and integers
        and upright_pixels
        and PREMULTIPLIED not in page.extrasamples
        and page.compression in tifffile.TIFF.DECOMPRESSORS
    )
