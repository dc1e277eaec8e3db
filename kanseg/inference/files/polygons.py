"""Label maps -> outlines along the edges of the pixels, exact, with holes; as COCO annotations and
GeoJSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from kanseg.inference.files.geotiff import GeoTransform

# Directions of edges, the region on their right: east (along its top), south, west, north; (row,
# column) steps.
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


@dataclass(frozen=True)
class Region:
    """Pixels of one class that touch along edges.

    Args:
        label: class index.
        area: pixels.
        box: (first column, first row, columns, rows).
        rings: closed lines (n, 2) of columns and rows, pixel (0, 0) reaching from (0, 0) to (1, 1),
            the first point not repeated; the outer one first, clockwise as seen on the screen, then
            the holes, the other way round.
    """

    label: int
    area: int
    box: tuple[int, int, int, int]
    rings: list[np.ndarray]


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


def regions(label: np.ndarray, task: str, *, smallest: int = 1) -> Iterator[Region]:
    """The regions of all classes of a label map (H, W), or of a multilabel task (N, H, W); the
    background (index 0) is none where there is one.

    Args:
        label: as `Predictor` gives it.
        task: of the predictor.
        smallest: regions of fewer pixels are left out.
    """
    maps = (
        enumerate(label)
        if task == "multilabel"
        else ((index, label == index) for index in np.unique(label).tolist() if index > 0)
    )
    for index, inside in maps:
        yield from _regions_of(index, np.ascontiguousarray(inside, np.uint8), smallest)


def _regions_of(index: int, inside: np.ndarray, smallest: int) -> Iterator[Region]:
    count, components, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
    rings: dict[int, list[np.ndarray]] = {}
    for component, ring in _rings(components):
        rings.setdefault(component, []).append(ring)
    for component in range(1, count):
        left, top, width, height, area = statistics[component].tolist()
        if area >= smallest:
            lines = sorted(
                rings[component], key=_turn, reverse=True
            )  # one turns clockwise, the holes do not
            yield Region(index, area, (left, top, width, height), lines)


def _rings(components: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(component, ring) of every closed line around the components (H, W; 0 is outside) of touching
    pixels.
    """
    starts, ends, directions, owners = _edges(components)
    if len(starts) == 0:
        return
    following = _following(starts, ends, directions, owners).tolist()
    width = components.shape[1] + 1
    seen = bytearray(len(following))
    turns = directions.tolist()
    for first in range(len(following)):
        corners, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            after = following[edge]
            if turns[after] != turns[edge]:
                corners.append(after)
            edge = after
        if corners:
            points = starts[corners]
            yield int(owners[first]), np.stack([points % width, points // width], axis=1)


def _edges(components: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First and last corner (row * (W + 1) + column), direction and component of every pixel edge
    on a border, the component on the right.
    """
    padded = np.pad(components, 1)
    inner = padded[1:-1, 1:-1]
    width = components.shape[1] + 1
    neighbors = (
        padded[:-2, 1:-1],
        padded[1:-1, 2:],
        padded[2:, 1:-1],
        padded[1:-1, :-2],
    )  # above, right, below, left
    origins = (
        (0, 0),
        (0, 1),
        (1, 1),
        (1, 0),
    )  # corner of the pixel at which the edge begins, clockwise
    parts = []
    for direction, (beside, (down, right)) in enumerate(zip(neighbors, origins, strict=True)):
        rows, columns = np.nonzero((inner > 0) & (inner != beside))
        start = (rows + down).astype(np.int64) * width + columns + right
        step = int(_STEPS[direction] @ (width, 1))
        parts.append((start, start + step, np.full(len(rows), direction), inner[rows, columns]))
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def _following(
    starts: np.ndarray, ends: np.ndarray, directions: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """For every edge the next one of the same component.

    Where a component touches itself at a corner two go on: the line turns left there, to the other
    pixel, so that an outer line and a hole do not run into each other.
    """
    turn = {1: 2, 0: 1, 3: 0}  # right, straight on, left: what is preferred, left first
    keys = _key(starts, owners, directions)
    order = np.argsort(keys)
    ordered = keys[order]
    result = np.full(len(starts), -1)
    for change in turn:
        wanted = _key(ends, owners, (directions + change) % 4)
        place = np.searchsorted(ordered, wanted).clip(max=len(ordered) - 1)
        found = ordered[place] == wanted
        result[found] = order[place[found]]  # a later, preferred change replaces an earlier one
    return result


def _key(corners: np.ndarray, owners: np.ndarray, directions: np.ndarray) -> np.ndarray:
    return (corners * (int(owners.max()) + 1) + owners) * 4 + directions


def _turn(ring: np.ndarray) -> float:
    """Twice the area that a ring encloses, positive where it runs clockwise on the screen."""
    x, y = ring[:, 0].astype(float), ring[:, 1].astype(float)
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def geojson(
    found: Sequence[Region], classes: Sequence[str], place: GeoTransform | None
) -> dict[str, Any]:
    """A FeatureCollection of the regions: in map coordinates where a place is given, else in pixels
    (columns, rows down from the top left corner).
    """
    features = []
    for region in found:
        rings = [ring if place is None else place(ring) for ring in region.rings]
        if (
            place is not None and place.mirrors
        ):  # GeoJSON wants outer lines anticlockwise as y grows upwards
            rings = [ring[::-1] for ring in rings]
        lines = [[*ring.tolist(), ring[0].tolist()] for ring in rings]
        properties = {"class": classes[region.label], "index": region.label, "pixels": region.area}
        features.append(
            {
                "type": "Feature",
                "properties": properties,
                "geometry": {"type": "Polygon", "coordinates": lines},
            }
        )
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if (
        place is not None and place.epsg is not None
    ):  # the member of GeoJSON 2008, which GIS programs still read
        collection["crs"] = {
            "type": "name",
            "properties": {"name": f"urn:ogc:def:crs:EPSG::{place.epsg}"},
        }
    return collection


class Coco:
    """COCO annotations of all images: a polygon for a region without holes, else run lengths
    (COCO's polygons know no holes).

    Args:
        classes: names of the classes.
        task: of the predictor; the background (index 0) is no category where there is one.
    """

    def __init__(self, classes: Sequence[str], task: str):
        first = 0 if task == "multilabel" else 1
        self._shift = 1 - first  # COCO's categories begin at 1
        self.categories = [
            {"id": index + self._shift, "name": name}
            for index, name in enumerate(classes)
            if index >= first
        ]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, shape: tuple[int, int], found: Sequence[Region]) -> None:
        """Add an image with its file name, size (H, W) and regions."""
        number = len(self.images) + 1
        height, width = shape
        self.images.append({"id": number, "file_name": name, "height": height, "width": width})
        for region in found:
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": region.label + self._shift,
                    "segmentation": _coco_outline(region, shape),
                    "area": region.area,
                    "bbox": list(region.box),
                    "iscrowd": 0,
                }
            )

    def content(self) -> dict[str, Any]:
        """The whole file."""
        return {
            "info": {"description": "written by kanseg"},
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
        }


def _coco_outline(region: Region, shape: tuple[int, int]) -> list[list[int]] | dict[str, Any]:
    if len(region.rings) == 1:
        return [region.rings[0].ravel().tolist()]
    return {"counts": run_lengths(filled(region), region.box, shape), "size": list(shape)}


def filled(region: Region) -> np.ndarray:
    """The pixels of a region in its box, (rows, columns) bool: between the edges of every row,
    since outlines follow the pixels.
    """
    left, top, width, height = region.box
    crossings = np.zeros((height, width + 1), np.uint8)
    for ring in region.rings:
        for (x, y), (other_x, other_y) in zip(
            ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True
        ):
            if x == other_x:
                crossings[min(y, other_y) - top : max(y, other_y) - top, x - left] ^= 1
    return np.bitwise_xor.accumulate(crossings, axis=1)[:, :width].astype(bool)


def run_lengths(inside: np.ndarray, box: Sequence[int], shape: tuple[int, int]) -> list[int]:
    """COCO's run lengths, column by column, outside first, of pixels in a box (first column, first
    row, columns, rows) of an image (H, W).
    """
    left, top, width, height = box
    columns = np.zeros((width, shape[0]), np.uint8)
    columns[:, top : top + height] = inside.T
    flat = columns.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=0, append=0)) + left * shape[0]
    return np.diff(changes, prepend=0, append=shape[0] * shape[1]).tolist()
