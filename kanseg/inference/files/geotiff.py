"""Where on the map a GeoTIFF lies."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from kanseg.data.io.decode_errors import decoder_errors
from kanseg.utils.errors import InputError

SCALE, TIE_POINT, TRANSFORM, KEYS, DOUBLES, TEXTS = 33550, 33922, 34264, 34735, 34736, 34737
_TYPES = {SCALE: "d", TIE_POINT: "d", TRANSFORM: "d", KEYS: "H", DOUBLES: "d"}
PROJECTED, GEOGRAPHIC, RASTER_TYPE = (
    "ProjectedCSTypeGeoKey",
    "GeographicTypeGeoKey",
    "GTRasterTypeGeoKey",
)
POINT = 2
USER_DEFINED = 32767


@dataclass(frozen=True)
class GeoTransform:
    """Pixel coordinates -> map coordinates.

    Args:
        matrix: (2, 3): (x, y) on the map = matrix @ (column, row, 1), pixel (0, 0) reaching from
            (0, 0) to (1, 1).
        epsg: code of the coordinate system; None where the file names none.
    """

    matrix: np.ndarray
    epsg: int | None

    @property
    def mirrors(self) -> bool:
        """Whether y grows upwards on the map, as it does on most."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) columns and rows -> (n, 2) map coordinates."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]


def geo_transform(path: Path) -> GeoTransform | None:
    """Where an image lies; None for files that do not tell (or tell it by several tie points,
    which is no linear map).
    """
    with suppress(InputError), decoder_errors(path):
        return _place(*_geo(path))
    return None


def _place(tags: dict[int, tuple], keys: dict[str, object]) -> GeoTransform | None:
    matrix = _matrix(tags)
    if matrix is None:
        return None
    if int(keys.get(RASTER_TYPE, 1)) == POINT:  # coordinates are those of the middles of the pixels
        matrix[:, 2] -= matrix[:, :2].sum(axis=1) / 2
    codes = [int(keys[key]) for key in (PROJECTED, GEOGRAPHIC) if key in keys]
    known = [code for code in codes if 0 < code < USER_DEFINED]
    return GeoTransform(matrix, known[0] if known else None)


def geotiff_tags(path: Path) -> list[tuple]:
    """The tags of a GeoTIFF that tell its place, for a file of the same size, as `tifffile` takes
    them.
    """
    tags, _ = _geo(path)
    numbers = [
        (code, kind, len(tags[code]), tuple(tags[code]), True)
        for code, kind in _TYPES.items()
        if code in tags
    ]
    return numbers + ([(TEXTS, "s", 0, tags[TEXTS], True)] if TEXTS in tags else [])


def _geo(path: Path) -> tuple[dict[int, tuple], dict[str, object]]:
    """Tags by code, and the parsed keys."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return {}, {}
    # A file whose place is damaged has none; who reads its pixels says what is wrong with them.
    with suppress(InputError), decoder_errors(path), tifffile.TiffFile(path) as file:
        page = file.pages[0]
        tags = {code: page.tags.valueof(code) for code in _TYPES if code in page.tags}
        numbers = {code: values for code, values in tags.items() if isinstance(values, tuple)}
        text = page.tags.valueof(TEXTS)
        return numbers | ({TEXTS: text} if isinstance(text, str) else {}), page.geotiff_tags or {}
    return {}, {}


def _matrix(tags: dict[int, tuple]) -> np.ndarray | None:
    if TRANSFORM in tags:
        return np.array(tags[TRANSFORM], float).reshape(4, 4)[:2, [0, 1, 3]]
    if SCALE not in tags or len(tags.get(TIE_POINT, ())) != 6:
        return None
    (x_scale, y_scale), (column, row, _, x, y, _) = tags[SCALE][:2], tags[TIE_POINT]
    return np.array([[x_scale, 0, x - column * x_scale], [0, -y_scale, y + row * y_scale]])
