"""Outline the regions of masks along the edges of pixels, exactly and with holes; the reverse
is in `rasterize`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# (row, column) steps of edges that have the region on their right: east (along its top), south,
# west, north.
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


@dataclass(frozen=True)
class Region:
    """A connected component of one class (pixels that touch along edges).

    Args:
        label: class index.
        area: pixels.
        box: (first column, first row, columns, rows).
        rings: closed lines (n, 2) of columns and rows, where pixel (0, 0) reaches from (0, 0) to
            (1, 1); the first point is not repeated. The outer ring comes first, clockwise on the
            screen, then the holes, anticlockwise.
    """

    label: int
    area: int
    box: tuple[int, int, int, int]
    rings: list[np.ndarray]


def regions(label: np.ndarray, task: str, *, smallest: int = 1) -> Iterator[Region]:
    """Yield the regions of all classes of a mask; the background (index 0), if there is one,
    is left out.

    Args:
        label: (H, W) class indices, or of a multilabel task (N, H, W) of 0 and 1.
        task: of the predictor.
        smallest: regions of fewer pixels are left out.
    """
    if task == "multilabel":
        for index, mask in enumerate(label):
            yield from _regions_of(index, np.ascontiguousarray(mask, np.uint8), smallest)
        return
    for index in np.unique(label).tolist():
        if index > 0:
            yield from _regions_of(index, (label == index).astype(np.uint8), smallest)


def _regions_of(index: int, mask: np.ndarray, smallest: int) -> Iterator[Region]:
    """Yield the connected components of a mask (H, W) uint8 of 0 and 1."""
    count, components, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    rings: dict[int, list[np.ndarray]] = {}
    for component, ring in _rings(components):
        rings.setdefault(component, []).append(ring)
    for component in range(1, count):
        left, top, width, height, area = statistics[component].tolist()
        if area >= smallest:
            # The outer ring, the only clockwise one, has the largest signed area.
            outer_first = sorted(rings[component], key=_signed_area, reverse=True)
            yield Region(index, area, (left, top, width, height), outer_first)


def _rings(components: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (component, ring) of every closed line around components (H, W), where 0 is outside."""
    starts, ends, directions, owners = _edges(components)
    if len(starts) == 0:
        return
    following = _next_edges(starts, ends, directions, owners).tolist()
    width = components.shape[1] + 1
    visited = bytearray(len(following))
    directions = directions.tolist()
    for first in range(len(following)):
        corners, edge = [], first
        while not visited[edge]:
            visited[edge] = 1
            after = following[edge]
            if directions[after] != directions[edge]:
                corners.append(after)
            edge = after
        if corners:
            points = starts[corners]
            yield int(owners[first]), np.stack([points % width, points // width], axis=1)


def _edges(components: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the pixel edges on a border of components, which lie on their right.

    Returns:
        (first corner, last corner, direction, component) of each edge; a corner is
        row * (W + 1) + column.
    """
    padded = np.pad(components, 1)
    inner = padded[1:-1, 1:-1]
    width = components.shape[1] + 1
    # Above, right, below, left; and the corner of the pixel at which the edge there begins.
    neighbors = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))
    parts = []
    for direction, (neighbor, (down, right)) in enumerate(zip(neighbors, corners, strict=True)):
        rows, columns = np.nonzero((inner > 0) & (inner != neighbor))
        start = (rows + down).astype(np.int64) * width + columns + right
        step = int(_STEPS[direction] @ (width, 1))
        parts.append((start, start + step, np.full(len(rows), direction), inner[rows, columns]))
    starts, ends, directions, owners = zip(*parts, strict=True)
    return (
        np.concatenate(starts),
        np.concatenate(ends),
        np.concatenate(directions),
        np.concatenate(owners),
    )


def _next_edges(
    starts: np.ndarray, ends: np.ndarray, directions: np.ndarray, owners: np.ndarray
) -> np.ndarray:
    """Find for every edge the next one of the same component.

    Where a component touches itself at a corner, two edges begin: the line turns left, to the other
    pixel, so that an outer ring and a hole do not run into each other.
    """
    keys = _edge_keys(starts, owners, directions)
    order = np.argsort(keys)
    ordered = keys[order]
    result = np.full(len(starts), -1)
    for turn in (1, 0, 3):  # right, straight on, left: a later one replaces an earlier one
        wanted = _edge_keys(ends, owners, (directions + turn) % 4)
        index = np.searchsorted(ordered, wanted).clip(max=len(ordered) - 1)
        found = ordered[index] == wanted
        result[found] = order[index[found]]
    return result


def _edge_keys(corners: np.ndarray, owners: np.ndarray, directions: np.ndarray) -> np.ndarray:
    return (corners * (int(owners.max()) + 1) + owners) * 4 + directions


def _signed_area(ring: np.ndarray) -> float:
    """Twice the area that a ring encloses, positive if it runs clockwise on the screen."""
    x, y = ring[:, 0].astype(float), ring[:, 1].astype(float)
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def filled(region: Region) -> np.ndarray:
    """Fill the rings of a region: its pixels in its box, (rows, columns) bool.

    Rings follow the edges of pixels, so in every row a pixel is inside if an odd number of vertical
    edges lies to its left.
    """
    left, top, width, height = region.box
    edges = np.zeros((height, width + 1), np.uint8)
    for ring in region.rings:
        points = ring.tolist()
        for (x, y), (next_x, next_y) in zip(points, [*points[1:], points[0]], strict=True):
            if x == next_x:
                edges[min(y, next_y) - top : max(y, next_y) - top, x - left] ^= 1
    return np.bitwise_xor.accumulate(edges, axis=1)[:, :width].astype(bool)


def run_lengths(mask: np.ndarray, box: Sequence[int], shape: tuple[int, int]) -> list[int]:
    """Encode a mask as COCO's run lengths: column by column, zeros first.

    Args:
        mask: (rows, columns) bool of a box.
        box: (first column, first row, columns, rows).
        shape: (H, W) of the image.
    """
    left, top, width, height = box
    columns = np.zeros((width, shape[0]), np.uint8)
    columns[:, top : top + height] = mask.T
    flat = columns.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=0, append=0)) + left * shape[0]
    return np.diff(changes, prepend=0, append=shape[0] * shape[1]).tolist()
