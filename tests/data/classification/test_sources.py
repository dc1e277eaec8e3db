import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kanseg.data.classification.sources import (
    ArrayImages,
    FileImages,
    ImageSource,
    checked_labels,
    cut,
    cut_exactly,
    stratified_order,
)
from kanseg.utils.errors import InputError

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def source(labels=LABELS):
    values = np.arange(len(labels), dtype=np.uint16)[:, None, None] * np.ones((1, 2, 3), np.uint16)
    return ImageSource.of(ArrayImages(values, "x"), labels)


def test_every_beginning_of_a_stratified_order_has_the_classes_in_their_proportions():
    for offset in (0.0, 0.5):
        order = stratified_order(LABELS, 3, offset=offset)
        assert sorted(order) == list(range(100))
        for count in range(1, 101):
            present = np.bincount(LABELS[order[:count]], minlength=3)
            assert np.abs(present - count * np.array([0.6, 0.3, 0.1])).max() <= 1.5


def test_the_first_samples_of_the_order_have_one_of_each_class():
    for seed in range(5):
        assert set(LABELS[stratified_order(LABELS, seed)[:3]]) == {0, 1, 2}


def test_the_order_depends_on_the_seed_and_not_on_the_calls():
    assert np.array_equal(stratified_order(LABELS, 1), stratified_order(LABELS, 1))
    assert not np.array_equal(stratified_order(LABELS, 1), stratified_order(LABELS, 2))


def test_an_exact_cut_leaves_a_lonely_class_to_the_larger_part():
    rest, part = cut_exactly(source(), 0.1, 0)
    assert np.bincount(part.labels).tolist() == [6, 3, 1]
    assert sorted([*rest.names(), *part.names()]) == sorted(source().names())
    lonely = np.append(LABELS, 3)
    for seed in range(5):
        assert 3 in cut_exactly(source(lonely), 0.4, seed)[0].labels


def test_a_cut_is_about_the_share_and_keeps_the_sides_of_a_set_that_grows():
    labels = np.arange(2000) % 4
    rest, part = cut(source(labels), 0.25, 0)
    assert 430 < len(part) < 570  # binomial: 500 +- 19
    assert sorted([*rest.names(), *part.names()]) == sorted(source(labels).names())
    _, grown = cut(source(np.arange(2500) % 4), 0.25, 0)
    assert set(part.names()) <= set(grown.names())
    assert not set(rest.names()) & set(grown.names())


def test_a_cut_of_files_goes_by_their_names_below_the_root(tmp_path):
    names = [f"{i:03d}.png" for i in range(200)]
    parts = []
    for root in (tmp_path / "here", tmp_path / "there"):
        files = FileImages([root / "cat" / name for name in names])
        whole = ImageSource.of(files, np.zeros(200, int))
        parts.append([Path(name).name for name in cut(whole, 0.2, 0, root)[1].names()])
    assert parts[0] == parts[1]
    assert 20 < len(parts[0]) < 60


def test_a_cut_leaves_an_image_of_each_class_and_takes_one_at_least():
    for seed in range(30):
        rest, part = cut(source(np.array([0, 0, 1, 1, 2])), 0.5, seed)
        assert set(rest.labels) == {0, 1, 2}
        assert len(part)
        assert [len(each) for each in cut(source(np.array([0, 1])), 0.01, seed)] == [1, 1]


def test_joined_sources_and_subsets_keep_image_label_and_name_together(tmp_path):
    Image.fromarray(np.full((4, 5, 3), 9, np.uint8)).save(tmp_path / "a.png")
    joined = ImageSource.joined(
        [source(), ImageSource.of(FileImages([tmp_path / "a.png"]), np.array([1]))]
    )
    chosen = pickle.loads(
        pickle.dumps(joined.subset(np.array([100, 70])))
    )  # as reading processes get it
    image, label, name = chosen[0]
    assert (image.shape, int(image[0, 0, 0]), label, name) == (
        (4, 5, 3),
        9,
        1,
        str(tmp_path / "a.png"),
    )
    image, label, name = chosen[1]
    assert (image.shape, int(image[0, 0, 0]), label, name) == ((2, 3, 1), 70, 1, "x[70]")
    assert chosen.sizes() == {(4, 5), (2, 3)}
    assert chosen.subset(np.array([1])).sizes() == {(2, 3)}
    assert chosen.in_files.tolist() == [0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4, 4), np.float32), "uint8 or uint16, got float32; convert"),
        (np.zeros((0, 4, 4), np.uint8), "n is at least 1"),
        (np.zeros((4, 4), np.uint8), r"\(n, H, W\)"),
        (np.zeros((2, 3, 32, 32), np.uint8), "channels come last"),
    ],
)
def test_arrays_that_hold_no_images_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        ArrayImages(values, "f.npz: x_train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1]), "2 labels for 3 images"),
        (np.array([0, 1, 5]), r"out of range \(0 to 2\): 5 in row 2"),
        (np.array([0, -1, 1]), "-1 in row 1"),
        (np.array([0.0, 1.0, 2.0]), "got float64"),
        (np.eye(3, dtype=int), "integers"),
    ],
)
def test_labels_that_are_none_are_refused_by_row(labels, message):
    with pytest.raises(InputError, match=message):
        checked_labels(labels, 3, "f.npz: y_train", num_classes=3)
    assert checked_labels(np.array([[0], [2], [1]], np.uint8), 3, "y", num_classes=3).tolist() == [
        0,
        2,
        1,
    ]
