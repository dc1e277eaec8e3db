from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.path import Path as MplPath

from kanseg.data.io.annotation_files import Coco
from kanseg.data.io.outlines import regions
from kanseg.data.io.rasterize import Annotation, Region, decode_runs, fill_polygons
from kanseg.utils.errors import InputError


def square(left, top, right, bottom):
    """Around the pixels of these columns and rows."""
    return np.array(
        [[left, top], [right + 1, top], [right + 1, bottom + 1], [left, bottom + 1]], np.float32
    )


def annotation(*regions, size=None):
    return Annotation(Path("a.json"), 1, size, regions)


def test_an_edge_lies_between_pixels():
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(
        fill_polygons([np.array([[2, 1], [6, 1], [6, 4], [2, 4]])], (6, 8)), expected
    )


def test_pixels_belong_to_the_polygon_that_holds_their_centers():
    rng = np.random.default_rng(0)
    centers = np.stack(np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5), axis=-1).reshape(
        -1, 2
    )
    for corners in (3, 5, 20):
        angles = np.sort(rng.random(corners)) * 2 * np.pi
        polygon = np.stack(
            [
                40 + 45 * rng.random(corners) * np.cos(angles),
                30 + 35 * rng.random(corners) * np.sin(angles),
            ],
            axis=1,
        )
        assert np.array_equal(
            fill_polygons([polygon], (60, 80)),
            MplPath(polygon).contains_points(centers).reshape(60, 80),
        )


def test_polygons_that_were_written_are_read_as_the_same_pixels():
    mask = (cv2.GaussianBlur(np.random.default_rng(0).random((60, 80)), (0, 0), 4) > 0.5).astype(
        np.uint8
    )
    writer = Coco(("ground", "cell"), "binary")
    writer.add("a.png", mask.shape, list(regions(mask, "binary")))
    read = np.zeros(mask.shape, bool)
    for entry in writer.content()["annotations"]:
        shape = entry["segmentation"]
        read |= (
            decode_runs(shape, mask.shape)
            if isinstance(shape, dict)
            else fill_polygons([np.reshape(p, (-1, 2)) for p in shape], mask.shape)
        )
    assert np.array_equal(read, mask > 0)


def test_polygons_of_an_object_are_united_where_they_overlap():
    both = fill_polygons([square(0, 0, 4, 4), square(2, 2, 6, 6)], (8, 8))
    assert np.array_equal(
        both,
        fill_polygons([square(0, 0, 4, 4)], (8, 8)) | fill_polygons([square(2, 2, 6, 6)], (8, 8)),
    )


def test_polygons_are_cut_at_the_border():
    assert fill_polygons([square(-50, -50, 50, 50)], (5, 7)).all()


def test_run_lengths_go_down_the_columns():
    shape = {"size": [2, 3], "counts": [1, 2, 3]}
    assert decode_runs(shape, (2, 3)).tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_compressed_run_lengths_are_those_of_pycocotools(density):
    coco = pytest.importorskip("pycocotools.mask")
    mask = (np.random.default_rng(1).random((211, 97)) < density).astype(np.uint8)
    encoded = coco.encode(np.asfortranarray(mask))
    assert np.array_equal(
        decode_runs({"size": list(mask.shape), "counts": encoded["counts"].decode()}, mask.shape),
        mask.astype(bool),
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"size": [3, 3], "counts": [9]}, "are of an image of 3x3 pixels .*, the image is 2x3"),
        ({"size": [2, 3], "counts": [1, 2]}, "do not add up to the 6 pixels"),
        ({"size": [2, 3], "counts": [10, -4]}, "add up to"),
        (
            {"size": [2, 3], "counts": [0, 2**62, 2**62, 2**62, 2**62, 6]},
            "add up to",
        ),  # wraps around to 6
        ({"size": [2, 3], "counts": [10**30]}, "too large|too big"),
        ({"size": [2, 3], "counts": "\u00e9"}, "character"),
        ({"size": [2, 3], "counts": "o"}, "end in the middle"),
        ({"size": [2, 3]}, "counts"),
    ],
)
def test_faults_of_run_lengths_are_reported_with_file_and_image(shape, message):
    with pytest.raises(
        InputError, match=f"a.json: an object of image 1 cannot be drawn: .*{message}"
    ):
        annotation(Region(1, shape)).draw((2, 3))


def test_smaller_objects_lie_on_larger_ones_and_all_on_crowds():
    small, large, crowd = (
        Region(2, [square(2, 2, 3, 3)], 4),
        Region(1, [square(1, 1, 5, 5)], 25),
        Region(1, [square(0, 0, 7, 7)], 1, crowd=True),
    )
    label = annotation(small, large, crowd).draw((8, 8))
    assert (label[0, 0], label[1, 1], label[2, 2]) == (255, 1, 2)
    assert np.array_equal(label, annotation(crowd, large, small).draw((8, 8)))


def test_multilabel_keeps_overlaps_and_ignores_a_crowd_in_its_class_only():
    regions = (
        Region(0, [square(0, 0, 3, 3)]),
        Region(1, [square(2, 2, 5, 5)]),
        Region(1, [square(0, 0, 1, 1)], crowd=True),
    )
    label = annotation(*regions).draw_each((6, 6), 2)
    assert label[:, 2, 2].tolist() == [1, 1]
    assert label[:, 0, 0].tolist() == [1, 255]
    assert label[:, 5, 5].tolist() == [0, 1]
    assert label.sum(axis=(1, 2)).tolist() == [16, 16 + 4 * 255]
