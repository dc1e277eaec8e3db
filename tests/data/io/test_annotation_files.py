import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from kanseg.data.io.annotation_files import Coco, labelme_content
from kanseg.data.io.outlines import regions
from tests.data.io.test_outlines import random_label, rasterized


def decoded(counts, shape):
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    return values.reshape(shape[1], shape[0]).T.astype(bool)


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


def test_categories_leave_the_background_out_where_there_is_one():
    assert Coco(["background", "a"], "binary").categories == [{"id": 1, "name": "a"}]
    assert Coco(["a", "b"], "multilabel").categories == [
        {"id": 1, "name": "a"},
        {"id": 2, "name": "b"},
    ]


@pytest.mark.parametrize("seed", range(20))
def test_labelme_shapes_drawn_are_the_label_map(seed):
    label = random_label(seed)
    content = labelme_content(
        "x.png", label.shape, list(regions(label, "multiclass")), ["background", "a", "b"]
    )
    drawn = np.zeros(label.shape, int)
    for shape in json.loads(json.dumps(content))["shapes"]:
        if shape["shape_type"] == "polygon":
            inside = rasterized([np.array(shape["points"])], label.shape)
        else:  # as labelme draws a mask: both corners belong to it
            (left, top), (right, bottom) = np.array(shape["points"], int)
            png = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
            inside = np.zeros(label.shape, bool)
            inside[top : bottom + 1, left : right + 1] = np.asarray(png).astype(bool)
        drawn += ["background", "a", "b"].index(shape["label"]) * inside
    assert np.array_equal(drawn, label)


def test_labelme_files_have_the_keys_that_labelme_needs():
    content = labelme_content("../a.png", (4, 5), [], ["background", "a"])
    assert content == {
        "version": content["version"],
        "flags": {},
        "shapes": [],
        "imagePath": "../a.png",
        "imageData": None,
        "imageHeight": 4,
        "imageWidth": 5,
    }
