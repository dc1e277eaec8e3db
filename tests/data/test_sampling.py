import numpy as np
import pytest

from kanseg.data import Augmentation
from kanseg.data.sampling import foreground_window
from kanseg.utils.errors import InputError

MASK = np.zeros((60, 80), np.uint8)
MASK[20:40, 30:60] = 1
MASK[50, 70] = 2  # a single pixel
MASK[:5] = 255
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def windows(mask, size, count=300):
    return [foreground_window(mask, size, np.random.default_rng(seed)) for seed in range(count)]


def test_each_class_is_in_half_of_the_windows_though_one_is_a_single_pixel():
    rare = np.mean([bool((MASK[window] == 2).any()) for window in windows(MASK, (9, 9), 1000)])
    assert abs(rare - 0.5) < 0.05


def test_windows_have_the_size_and_lie_inside():
    for rows, columns in windows(MASK, (16, 24)):
        assert (rows.stop - rows.start, columns.stop - columns.start) == (16, 24)
        assert 0 <= rows.start <= rows.stop <= 60
        assert 0 <= columns.start <= columns.stop <= 80


def test_a_pixel_is_found_everywhere_in_its_windows():
    places = {
        50 - rows.start
        for rows, columns in windows(MASK, (6, 6), 400)
        if (MASK[rows, columns] == 2).any() and 50 in range(rows.start, rows.stop)
    }
    assert places == set(range(6))


def test_a_smaller_image_gives_all_of_it():
    assert foreground_window(MASK, (100, 100), np.random.default_rng(0)) == (
        slice(0, 60),
        slice(0, 80),
    )


@pytest.mark.parametrize(
    "mask",
    [np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), np.zeros((2, 4, 4), np.uint8)],
)
def test_a_image_of_background_has_no_such_window(mask):
    assert foreground_window(mask, (2, 2), np.random.default_rng(0)) is None


def test_multilabel_takes_every_class_alike():
    layers = np.stack([np.ones((60, 80), np.uint8), (MASK == 2).astype(np.uint8)])
    share = np.mean([bool((MASK[window] == 2).any()) for window in windows(layers, (5, 5), 1000)])
    assert abs(share - 0.5) < 0.05


def test_crops_are_slices_of_the_image_and_depend_on_the_seed_only():
    augment, again = (Augmentation([], crop=(12, 10), foreground=1.0) for _ in range(2))
    known = {IMAGE[r : r + 12, c : c + 10].tobytes(): (r, c) for r in range(49) for c in range(71)}
    for seed in range(50):
        image, mask = augment(IMAGE, MASK, seed)
        row, column = known[image.tobytes()]
        assert np.array_equal(mask, MASK[row : row + 12, column : column + 10])
        assert np.isin(mask, (1, 2)).any()
        assert np.array_equal(image, again(IMAGE, MASK, seed)[0])


def test_the_share_of_crops_around_a_class_is_the_asked_one():
    rare = {}
    for share in (0.0, 0.4):
        augment = Augmentation([], crop=(6, 6), foreground=share)
        rare[share] = np.mean(
            [bool((augment(IMAGE, MASK, seed)[1] == 2).any()) for seed in range(1500)]
        )
    assert rare[0.0] < 0.03
    assert abs(rare[0.4] - rare[0.0] - 0.2) < 0.04  # of the 40 %, half are around the second class


def test_smaller_images_are_padded_with_ignored_pixels():
    image, mask = Augmentation([], crop=(70, 30), foreground=1.0)(IMAGE, MASK, 0)
    assert image.shape == (70, 30, 3)
    assert (mask == 255).sum() >= 10 * 30


def test_what_it_needs_is_reported():
    with pytest.raises(InputError, match=r"oversample_foreground needs data\.crop"):
        Augmentation([], foreground=0.3)
    with pytest.raises(InputError, match="must be a share from 0 to 1, got 1.5"):
        Augmentation([], crop=(4, 4), foreground=1.5)
