import numpy as np
import pytest
from PIL import Image

from kanseg.visualization.confusion import (
    draw_pixel_confusion,
    most_confused,
    pixel_confusion,
    row_shares,
)


def test_rows_are_shares_of_the_true_class_and_absent_classes_are_undefined():
    shares = row_shares(np.array([[3, 1], [0, 0]]))
    assert shares[0].tolist() == [0.75, 0.25]
    assert np.isnan(shares[1]).all()


def test_images_are_added_up():
    counts, shares = pixel_confusion({4: np.array([[2, 2], [0, 5]]), 7: np.array([[6, 0], [5, 0]])})
    assert counts.tolist() == [[8, 2], [5, 5]]
    assert shares.tolist() == [[0.8, 0.2], [0.5, 0.5]]


def test_multilabel_classes_have_shares_of_the_pixels_without_and_with_them():
    counts, shares = pixel_confusion({0: np.array([[[6, 2], [1, 3]], [[4, 0], [0, 0]]])})
    assert counts.tolist() == [[6, 2, 1, 3], [4, 0, 0, 0]]
    assert shares[0].tolist() == [0.75, 0.25, 0.25, 0.75]
    assert shares[1, :2].tolist() == [1, 0]
    assert np.isnan(shares[1, 2:]).all()


def test_the_worst_mixed_up_pairs_are_named():
    assert most_confused(np.array([[9, 1, 0], [2000, 9, 0], [0, 3, 9]]), ["a", "b", "c"])[1:] == [
        "b as a: 2,000",
        "c as b: 3",
        "a as b: 1",
    ]
    assert most_confused(np.eye(3, dtype=int), ["a", "b", "c"]) == []


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((2, 2), int), np.diag([10**9] * 21), np.ones((1, 2, 2), int)],
    ids=["nothing", "21 classes", "multilabel"],
)
def test_matrices_of_all_kinds_are_drawn(tmp_path, matrix):
    names = [f"class ${i}^$ with a name that is far too long" for i in range(len(matrix))]
    image = Image.open(draw_pixel_confusion({0: matrix}, names, tmp_path / "new" / "confusion.png"))
    assert min(image.size) > 250
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["confusion.png"]
