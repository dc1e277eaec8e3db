"""The position of a GeoTIFF on the map."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.tiff import SUFFIXES
from kanseg.utils.errors import InputError

# Tags of GeoTIFF: pixel scale, tie points, 4x4 transform, key directory, and its numbers and texts.
SCALE, TIE_POINT, TRANSFORM, KEYS, DOUBLES, TEXTS = 33550, 33922, 34264, 34735, 34736, 34737
_DTYPES = {SCALE: "d", TIE_POINT: "d", TRANSFORM: "d", KEYS: "H", DOUBLES: "d"}
# Keys of the directory, and two of their values.
PROJECTED, GEOGRAPHIC = "ProjectedCSTypeGeoKey", "GeographicTypeGeoKey"
RASTER_TYPE, PIXEL_IS_AREA, PIXEL_IS_POINT = "GTRasterTypeGeoKey", 1, 2
USER_DEFINED = 32767


@dataclass(frozen=True)
class GeoTransform:
    """Affine map from pixel coordinates to map coordinates.

    Args:
        matrix: (2, 3): (x, y) on the map = matrix @ (column, row, 1); pixel (0, 0) reaches from
            (0, 0) to (1, 1).
        epsg: code of the coordinate system; None if the file names none.
    """

    matrix: np.ndarray
    epsg: int | None

    @property
    def flips_orientation(self) -> bool:
        """True if y grows upwards on the map, as on most, so that clockwise rings turn around."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Transform (n, 2) columns and rows to (n, 2) map coordinates."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]


def geo_transform(path: Path) -> GeoTransform | None:
    """Read the position of an image; None for files without one, damaged ones, and those with
    several tie points, which are not an affine map.
    """
    tags, keys = _read_tags(path)
    with suppress(InputError), decoder_errors(path):
        matrix = _affine_matrix(tags)
        if matrix is None:
            return None
        if int(keys.get(RASTER_TYPE, PIXEL_IS_AREA)) == PIXEL_IS_POINT:
            matrix[:, 2] -= matrix[:, :2].sum(axis=1) / 2  # coordinates are of the pixels' centers
        for key in (PROJECTED, GEOGRAPHIC):
            code = int(keys.get(key, USER_DEFINED))
            if 0 < code < USER_DEFINED:
                return GeoTransform(matrix, code)
        return GeoTransform(matrix, None)
    return None


def geotiff_tags(path: Path) -> list[tuple]:
    """Read the tags that hold the position of a GeoTIFF, as `extratags` of `tifffile.imwrite` for a
    file of the same size.
    """
    tags, _ = _read_tags(path)
    extratags = []
    for code, dtype in _DTYPES.items():
        if code in tags:
            extratags.append((code, dtype, len(tags[code]), tuple(tags[code]), True))
    if TEXTS in tags:
        extratags.append((TEXTS, "s", 0, tags[TEXTS], True))
    return extratags


def _read_tags(path: Path) -> tuple[dict[int, tuple | str], dict[str, object]]:
    """Read (tags by code, keys of the directory); both empty for other or damaged files, whose
    damage is reported where their pixels are read.
    """
    if path.suffix.lower() not in SUFFIXES:
        return {}, {}
    with suppress(InputError), decoder_errors(path), tifffile.TiffFile(path) as file:
        page = file.pages[0]
        tags: dict[int, tuple | str] = {}
        for code in _DTYPES:
            values = page.tags.valueof(code)
            if isinstance(values, tuple):
                tags[code] = values
        text = page.tags.valueof(TEXTS)
        if isinstance(text, str):
            tags[TEXTS] = text
        return tags, page.geotiff_tags or {}
    return {}, {}


def _affine_matrix(tags: dict[int, tuple]) -> np.ndarray | None:
    """(2, 3) of the transform, or of the scale and one tie point."""
    if TRANSFORM in tags:
        return np.array(tags[TRANSFORM], float).reshape(4, 4)[:2, [0, 1, 3]]
    if SCALE not in tags or len(tags.get(TIE_POINT, ())) != 6:
        return None
    x_scale, y_scale = tags[SCALE][:2]
    column, row, _, x, y, _ = tags[TIE_POINT]
    return np.array([[x_scale, 0, x - column * x_scale], [0, -y_scale, y + row * y_scale]])
