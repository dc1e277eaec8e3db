import numpy as np
import pytest
import torch
from scipy import ndimage

from kanseg.losses import WeightedLoss, check_options
from kanseg.losses.centerline import soft_skeleton
from kanseg.utils.errors import InputError

CROSS = ndimage.generate_binary_structure(2, 1)


def skeleton_by_scipy(x, iterations):
    """The same by scipy's gray morphology; beyond the border there is nothing to compare with."""

    def opened(x):
        eroded = ndimage.grey_erosion(x, footprint=CROSS, mode="constant", cval=np.inf)
        return eroded, ndimage.grey_dilation(eroded, size=3, mode="constant", cval=-np.inf)

    skeleton = np.maximum(x - opened(x)[1], 0)
    for _ in range(iterations):
        x = opened(x)[0]
        removed = np.maximum(x - opened(x)[1], 0)
        skeleton = skeleton + (1 - skeleton) * removed
    return skeleton


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_skeleton_is_that_of_gray_morphology(iterations):
    x = ndimage.gaussian_filter(np.random.default_rng(0).random((17, 23)), 1.5)
    x = (x - x.min()) / (x.max() - x.min())
    found = soft_skeleton(torch.from_numpy(x)[None, None], iterations)[0, 0]
    np.testing.assert_allclose(found, skeleton_by_scipy(x, iterations), atol=1e-9)


def test_the_skeleton_of_a_bar_is_its_center_line():
    x = torch.zeros(1, 1, 15, 30)
    x[..., 5:10, 3:27] = 1
    skeleton = soft_skeleton(x, 5)[0, 0]
    assert skeleton[7, 5:25].eq(1).all()
    rest = skeleton.clone()
    rest[7] = 0
    assert rest[:, 6:24].eq(0).all()


def loss_of(prediction, mask, **options):
    logits = torch.where(prediction > 0, 50.0, -50.0)[None, None]
    loss = WeightedLoss({"cldice": 1.0}, "binary", options={"cldice": options})
    return float(loss(logits, mask[None].long()))


def test_worked_out_by_hand():
    """A line of 20 pixels of which a quarter is not found: precision 1, recall 3/4."""
    mask = torch.zeros(9, 30)
    mask[4, 5:25] = 1
    prediction = mask.clone()
    prediction[4, 20:] = 0
    assert loss_of(mask, mask, smooth=0) == pytest.approx(0, abs=1e-6)
    expected = 1 - 2 * 0.75 / 1.75
    assert loss_of(prediction, mask, smooth=0) == pytest.approx(expected, abs=1e-6)


def test_a_gap_costs_more_than_a_line_that_is_too_wide():
    mask = torch.zeros(21, 40)
    mask[10, 5:35] = 1
    wide = mask.clone()
    wide[9:12, 5:35] = 1
    gap = mask.clone()
    gap[10, 15:25] = 0
    assert loss_of(wide, mask) < 0.1 < loss_of(gap, mask)


def test_a_class_without_a_pixel_costs_nothing():
    mask = torch.zeros(9, 9)
    assert loss_of(mask, mask) == 0
    assert loss_of(mask + 1, mask) == 0


def test_a_number_of_iterations_is_an_integer():
    check_options({"cldice": {"iterations": 4}}, {"cldice": 1.0})
    for bad in (2.5, 0, 1000):
        with pytest.raises(InputError, match=r"cldice\.iterations"):
            check_options({"cldice": {"iterations": bad}}, {"cldice": 1.0})
