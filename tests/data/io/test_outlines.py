import numpy as np
import pytest
from matplotlib.path import Path as Outline

from kanseg.data.io.outlines import regions

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


def test_a_region_that_touches_itself_at_a_corner_has_a_hole_and_two_that_touch_have_none():
    touching = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    assert [len(region.rings) for region in regions(touching, "binary")] == [2]
    assert [len(region.rings) for region in regions(np.eye(3, dtype=np.uint8), "binary")] == [
        1,
        1,
        1,
    ]


def test_classes_of_a_multilabel_task_may_overlap():
    label = np.stack([RING, np.ones_like(RING)])
    assert [(region.label, region.area) for region in regions(label, "multilabel")] == [
        (0, 8),
        (1, 20),
    ]


def test_nothing_has_no_regions():
    assert list(regions(np.zeros((4, 5), np.uint8), "multiclass")) == []
