import numpy as np
import torch

from kanseg.data.preprocess import Preprocess, resize_image, resize_mask


def test_values_are_scaled_by_their_type_then_normalised_once():
    preprocess = Preprocess(channels=1, mean=(0.25,), std=(0.5,))
    eight = preprocess(np.full((2, 3, 1), 51, np.uint8))
    sixteen = preprocess(np.full((2, 3, 1), 51 * 257, np.uint16))
    torch.testing.assert_close(eight, torch.full((1, 2, 3), (0.2 - 0.25) / 0.5))
    torch.testing.assert_close(eight, sixteen)


def test_gamma_acts_before_the_statistics():
    assert torch.allclose(Preprocess(channels=1, mean=(0.0,), std=(1.0,), gamma=0.5)(np.full((1, 1, 1), 64, np.uint8)), torch.tensor((64 / 255) ** 0.5))


def test_shrinking_averages_areas_where_asked():
    image = np.zeros((4, 4, 1), np.uint8)
    image[0, 0] = 160
    assert resize_image(image, (1, 1), "area")[0, 0, 0] == 10
    assert resize_image(image, (1, 1))[0, 0, 0] == 0  # bilinear looks at the four pixels in the middle


def test_masks_take_the_nearest_pixel():
    mask = np.array([[0, 255], [3, 1]], np.uint8)
    assert np.array_equal(resize_mask(mask, (4, 4)), mask.repeat(2, 0).repeat(2, 1))
