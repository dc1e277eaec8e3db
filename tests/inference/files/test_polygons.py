import json

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from kanseg.inference.files.geotiff import GeoTransform
from kanseg.inference.files.polygons import Coco, geojson, regions

RING = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0]], np.uint8)


def random_label(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, rng.integers(1, 24, 2), dtype=np.uint8) * (rng.random() < 0.9)


def rasterized(rings, shape):
    """Even-odd: the middles of the pixels inside of an odd number of lines."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    return (
        np.sum(
            [Outline([*ring, ring[0]]).contains_points(points) for ring in rings], axis=0
        ).reshape(shape)
        % 2
        == 1
    )


def decoded(counts, shape):
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    return values.reshape(shape[1], shape[0]).T.astype(bool)


def test_a_frame_by_hand():
    (region,) = regions(RING, "multiclass")
    outer, hole = (ring.tolist() for ring in region.rings)
    assert (region.label, region.area, region.box) == (1, 8, (1, 1, 3, 3))
    assert sorted(outer) == [[1, 1], [1, 4], [4, 1], [4, 4]]
    assert sorted(hole) == [[2, 2], [2, 3], [3, 2], [3, 3]]


@pytest.mark.parametrize("seed", range(20))
def test_outlines_filled_are_the_label_map(seed):
    label = random_label(seed)
    filled = np.zeros(label.shape, int)
    for region in regions(label, "multiclass"):
        inside = rasterized(region.rings, label.shape)
        assert inside.sum() == region.area
        filled += region.label * inside
    assert np.array_equal(filled, label)


@pytest.mark.parametrize("seed", range(20))
def test_annotations_decoded_are_the_label_map(seed):
    label = random_label(seed)
    coco = Coco(["background", "a", "b"], "multiclass")
    coco.add("x.png", label.shape, list(regions(label, "multiclass")))
    filled = np.zeros(label.shape, int)
    for note in json.loads(json.dumps(coco.content()))["annotations"]:
        outline = note["segmentation"]
        rings = (
            [np.reshape(line, (-1, 2)) for line in outline] if isinstance(outline, list) else None
        )
        inside = (
            rasterized(rings, label.shape) if rings else decoded(outline["counts"], outline["size"])
        )
        rows, columns = np.nonzero(inside)
        assert note["area"] == inside.sum()
        assert note["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        filled += note["category_id"] * inside
    assert np.array_equal(filled, label)


def test_a_region_that_touches_itself_at_a_corner_has_a_hole_and_two_that_touch_have_none():
    touching = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    assert [len(region.rings) for region in regions(touching, "binary")] == [2]
    assert [len(region.rings) for region in regions(np.eye(3, dtype=np.uint8), "binary")] == [
        1,
        1,
        1,
    ]


def test_categories_leave_the_background_out_where_there_is_one():
    assert Coco(["background", "a"], "binary").categories == [{"id": 1, "name": "a"}]
    assert Coco(["a", "b"], "multilabel").categories == [
        {"id": 1, "name": "a"},
        {"id": 2, "name": "b"},
    ]


def test_classes_of_a_multilabel_task_may_overlap():
    label = np.stack([RING, np.ones_like(RING)])
    assert [(region.label, region.area) for region in regions(label, "multilabel")] == [
        (0, 8),
        (1, 20),
    ]


def test_nothing_has_no_regions():
    assert list(regions(np.zeros((4, 5), np.uint8), "multiclass")) == []


def signed_area(line):
    points = np.array(line)
    x, y = points[:, 0], points[:, 1]
    return (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2


def test_geojson_in_pixels_and_on_the_map():
    found = list(regions(RING, "binary"))
    place = GeoTransform(np.array([[2.0, 0.0, 100.0], [0.0, -2.0, 500.0]]), 32633)
    for where, factor in ((None, 1), (place, 4)):
        collection = geojson(found, ["background", "ring"], where)
        (feature,) = collection["features"]
        outer, hole = feature["geometry"]["coordinates"]
        assert outer[0] == outer[-1]
        assert (signed_area(outer), signed_area(hole)) == (
            9 * factor,
            -1 * factor,
        )  # anticlockwise outside, as GeoJSON wants it
        assert feature["properties"] == {"class": "ring", "index": 1, "pixels": 8}
    assert np.min(outer, axis=0).tolist() == [102.0, 492.0]
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
