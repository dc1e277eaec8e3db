import numpy as np
import pytest
import torch

from kanseg.data.io.decoded import DecodedImage
from kanseg.data.preprocess import Preprocess, resize_image, resize_mask
from kanseg.utils.errors import InputError


def test_values_are_scaled_by_their_type_then_normalized_once():
    preprocess = Preprocess(channels=1, mean=(0.25,), std=(0.5,))
    eight = preprocess(np.full((2, 3, 1), 51, np.uint8))
    sixteen = preprocess(np.full((2, 3, 1), 51 * 257, np.uint16))
    torch.testing.assert_close(eight, torch.full((1, 2, 3), (0.2 - 0.25) / 0.5))
    torch.testing.assert_close(eight, sixteen)


def test_gamma_acts_before_the_statistics():
    assert torch.allclose(
        Preprocess(channels=1, mean=(0.0,), std=(1.0,), gamma=0.5)(
            np.full((1, 1, 1), 64, np.uint8)
        ),
        torch.tensor((64 / 255) ** 0.5),
    )


def test_shrinking_averages_areas_where_asked():
    image = np.zeros((4, 4, 1), np.uint8)
    image[0, 0] = 160
    assert resize_image(image, (1, 1), "area")[0, 0, 0] == 10
    assert (
        resize_image(image, (1, 1))[0, 0, 0] == 0
    )  # bilinear looks at the four pixels in the middle


def test_masks_take_the_nearest_pixel():
    mask = np.array([[0, 255], [3, 1]], np.uint8)
    assert np.array_equal(resize_mask(mask, (4, 4)), mask.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_bytes_are_normalized_as_the_formula_says(gamma, channels):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, channels), dtype=np.uint8)
    mean, std = np.linspace(0.2, 0.6, channels), np.linspace(0.1, 0.3, channels)
    expected = ((image / 255) ** gamma - mean) / std
    values = Preprocess(channels, tuple(mean), tuple(std), gamma).normalize(image).numpy()
    np.testing.assert_allclose(values, expected.transpose(2, 0, 1), atol=1e-5)


def test_floats_are_taken_as_they_are():
    heights = np.float32([[[1000.0], [3000.0]]])
    assert Preprocess(1, (2000.0,), (500.0,), floats=True)(heights).tolist() == [[[-2.0, 2.0]]]


@pytest.mark.parametrize("floats", [True, False])
def test_floats_and_integers_are_not_taken_for_each_other(floats):
    image = np.zeros((2, 2, 1), np.uint8 if floats else np.float32)
    with pytest.raises(InputError, match=r"a\.tif: .*the training images hold"):
        Preprocess(1, floats=floats).scale(image, name="a.tif")


def test_a_gamma_needs_floats_from_0_to_1():
    with pytest.raises(
        InputError, match=r"values from 0 to 7, and data\.gamma needs values from 0 to 1"
    ):
        Preprocess(1, gamma=0.5, floats=True).scale(np.float32([[[0.0], [7.0]]]))


def test_every_class_of_a_multilabel_mask_is_resized():
    mask = np.random.default_rng(0).integers(0, 2, (3, 6, 8)).astype(np.uint8)
    assert np.array_equal(
        resize_mask(mask, (3, 4)), np.stack([resize_mask(layer, (3, 4)) for layer in mask])
    )


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pixels_without_data_are_seen_as_the_mean(dtype, gamma):
    largest = 1 if dtype is np.float32 else np.iinfo(dtype).max
    values = (np.random.default_rng(0).random((4, 5, 3)) * largest).astype(dtype)
    nodata = np.zeros((4, 5), bool)
    nodata[1, 2] = True
    preprocess = Preprocess(
        3, mean=(0.2, 0.5, 0.7), std=(0.1, 0.2, 0.3), gamma=gamma, floats=dtype is np.float32
    )
    seen = preprocess(DecodedImage(values, nodata=nodata)).numpy()
    # Integers come as near as they can.
    step = {np.uint8: 0.1, np.uint16: 3e-4, np.float32: 1e-6}[dtype]
    assert np.abs(seen[:, 1, 2]).max() < step
    others = preprocess(values).numpy()
    assert np.array_equal(seen[:, ~nodata], others[:, ~nodata])


def test_the_last_band_is_dropped_only_where_the_file_calls_it_alpha():
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    preprocess = Preprocess(3)
    assert preprocess.fit(DecodedImage(values, alpha=True)).shape == (4, 5, 3)
    with pytest.raises(InputError, match="has 4 channels, none of them alpha"):
        preprocess.fit(DecodedImage(values, alpha=False))
    assert Preprocess(4).fit(DecodedImage(values)).shape == (4, 5, 4)
