"""Regions of masks as GeoJSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kanseg.data.io.outlines import Region
from kanseg.inference.files.geotiff import GeoTransform


@dataclass(frozen=True)
class ImageRegions:
    """The regions of one image.

    Args:
        file_name: of the image, below the input folder.
        shape: (H, W).
        regions: of all classes.
    """

    file_name: str
    shape: tuple[int, int]
    regions: Sequence[Region]


def geojson(
    found: Sequence[Region], classes: Sequence[str], transform: GeoTransform | None
) -> dict[str, Any]:
    """Make a FeatureCollection of regions.

    Args:
        found: the regions.
        classes: names.
        transform: to map coordinates; None for pixels (columns, rows down from the top left
            corner).
    """
    features = []
    for region in found:
        lines = []
        for ring in region.rings:
            if transform is not None:
                ring = transform(ring)
                if transform.flips_orientation:
                    ring = ring[::-1]  # GeoJSON wants outer rings anticlockwise as y grows upwards
            points = ring.tolist()
            lines.append([*points, points[0]])
        features.append(
            {
                "type": "Feature",
                "properties": {
                    "class": classes[region.label],
                    "index": region.label,
                    "pixels": region.area,
                },
                "geometry": {"type": "Polygon", "coordinates": lines},
            }
        )
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if transform is not None and transform.epsg is not None:
        # "crs" is of GeoJSON 2008; GIS programs still read it.
        name = f"urn:ogc:def:crs:EPSG::{transform.epsg}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    return collection
