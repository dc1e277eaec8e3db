import importlib.metadata

import numpy as np
import pytest

from kanseg.data.transforms import Augmentation, sample_seed
from kanseg.utils.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
MASK = IMAGE[:, :, 0] // 64
MANY = ["HorizontalFlip", {"RandomRotate90": {}}, {"RandomBrightnessContrast": {"p": 1.0}}]


def test_the_same_seed_gives_the_same_result_whatever_came_before():
    augment = Augmentation(MANY)
    first = augment(IMAGE, MASK, 5)
    for seed in range(4):
        augment(IMAGE, MASK, seed)
    again = Augmentation(MANY)(IMAGE, MASK, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.array_equal(first[0], augment(IMAGE, MASK, 5)[0])


def test_seeds_give_different_results():
    augment = Augmentation(MANY)
    assert len({augment(IMAGE, MASK, seed)[0].tobytes() for seed in range(8)}) == 8


def test_sample_seeds_differ_by_seed_epoch_and_index():
    seeds = {sample_seed(s, e, i) for s in range(3) for e in range(5) for i in range(50)}
    assert len(seeds) == 750


def test_image_and_mask_move_together():
    augment = Augmentation([{"HorizontalFlip": {"p": 1.0}}])
    image, mask = augment(IMAGE, MASK, 0)
    assert np.array_equal(image, IMAGE[:, ::-1])
    assert np.array_equal(mask, MASK[:, ::-1])


def test_one_channel_keeps_its_axis():
    assert Augmentation(MANY)(IMAGE[:, :, :1], MASK, 0)[0].ndim == 3


def test_made_up_pixels_are_ignored():
    _, mask = Augmentation([{"Affine": {"translate_px": {"x": [8, 8], "y": [0, 0]}, "p": 1.0}}])(
        IMAGE, MASK, 0
    )
    assert (mask[:, :8] == 255).all()


def test_16_bit_images_are_augmented_as_floats():
    deep = IMAGE.astype(np.uint16) * 257
    for spec in (
        "ColorJitter",
        {"RandomGamma": {"p": 1.0}},
        {"GaussNoise": {"p": 1.0}},
        "HorizontalFlip",
    ):
        image, _ = Augmentation([spec])(deep, MASK, 0)
        assert image.dtype == np.float32
    flipped, _ = Augmentation([{"HorizontalFlip": {"p": 1.0}}])(deep, MASK, 0)
    np.testing.assert_allclose(flipped, IMAGE[:, ::-1] / 255, atol=1e-6)


@pytest.mark.parametrize(
    "spec", [{"RandomCrop": {"height": 99, "width": 99}}, "ToTensorV2", {"Normalize": {"p": 1.0}}]
)
def test_a_transform_that_fails_or_changes_the_type_is_reported_with_the_image(spec):
    with pytest.raises(InputError, match=r"a\.png: augmentation (failed|turned)"):
        Augmentation([spec])(IMAGE, MASK, 0, name="a.png")


def test_crop_pads_small_images_with_ignored_pixels():
    image, mask = Augmentation([], crop=(32, 16))(IMAGE, MASK, 0)
    assert image.shape == (32, 16, 3)
    assert (mask == 255).sum() == 12 * 16


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"HorizontalFlipp": {}}, "no transform 'HorizontalFlipp'; did you mean 'HorizontalFlip'"),
        ({"HorizontalFlip": {"probability": 1}}, "has no option 'probability'"),
        ({"HorizontalFlip": {"p": 7}}, "augmentation HorizontalFlip"),
        ({"HorizontalFlip": {}, "VerticalFlip": {}}, "an augmentation must be"),
        ("BasicTransform", "no transform"),
    ],
)
def test_misspelt_or_impossible_transforms_are_errors(spec, message):
    with pytest.raises(InputError, match=message):
        Augmentation([spec])


def test_the_package_of_the_same_import_name_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0")
    with pytest.raises(InputError, match="albumentationsx"):
        Augmentation(["HorizontalFlip"])


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_geometry_takes_any_number_of_bands(channels, dtype):
    bands = np.random.default_rng(2).integers(0, 256, (20, 24, channels)).astype(dtype)
    augment = Augmentation(
        [{"HorizontalFlip": {"p": 1.0}}, {"VerticalFlip": {"p": 1.0}}], crop=(20, 24)
    )
    augment.check(bands)
    image, mask = augment(bands, MASK, 0)
    np.testing.assert_allclose(
        image * (65535 if dtype == np.uint16 else 1), bands[::-1, ::-1], atol=1e-2
    )
    assert np.array_equal(mask, MASK[::-1, ::-1])


@pytest.mark.parametrize("name", ["ColorJitter", "HueSaturationValue", "CLAHE", "ToGray"])
def test_rare_transforms_of_colors_are_refused_for_bands_before_the_training(name):
    bands = np.zeros((20, 24, 5), np.uint8)
    Augmentation([{name: {"p": 0.01}}]).check(IMAGE)
    with pytest.raises(InputError, match=f"augmentation {name} .*5 channels"):
        Augmentation([{name: {"p": 0.01}}]).check(bands)


def test_floats_outside_0_to_1_keep_their_range():
    heights = np.random.default_rng(3).normal(2000, 500, (20, 24, 2)).astype(np.float32)
    flipped, _ = Augmentation([{"HorizontalFlip": {"p": 1.0}}])(heights, MASK, 0)
    np.testing.assert_allclose(flipped, heights[:, ::-1], rtol=1e-5)
    brighter, _ = Augmentation([{"RandomBrightnessContrast": {"p": 1.0}}])(heights, MASK, 0)
    assert brighter.std() > 100


FLOATS = np.random.default_rng(1).normal(200, 50, (20, 24, 3)).astype(np.float32)
FLIP = [{"HorizontalFlip": {"p": 1.0}}]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_refused(value):
    image = FLOATS.copy()
    image[3, 4, 1] = value
    with pytest.raises(InputError, match="image 7: has NaN or infinite"):
        Augmentation(FLIP)(image, MASK, 0, name="image 7")


@pytest.mark.parametrize(("value", "count"), [(1e30, 1), (-3.4028235e38, 3), (1e8, 2)])
def test_values_that_would_erase_the_others_are_refused(value, count):
    """Such as pixels without data that the file does not mark."""
    image = FLOATS.copy()
    image[0, :count] = value
    with pytest.raises(InputError, match="clip the values"):
        Augmentation(FLIP)(image, MASK, 0)


@pytest.mark.parametrize("value", [0.0, 1e4, -1e5])
def test_other_floats_keep_their_values(value):
    image = FLOATS.copy()
    image[0, 0] = value
    changed, _ = Augmentation(FLIP)(image, MASK, 0)
    np.testing.assert_allclose(changed, image[:, ::-1], atol=1e-2)


def test_floats_that_are_mostly_zero_are_no_fault():
    image = np.zeros_like(FLOATS)
    image[5, 5] = 1e6
    changed, _ = Augmentation(FLIP)(image, MASK, 0)
    np.testing.assert_allclose(changed, image[:, ::-1], rtol=1e-6)
