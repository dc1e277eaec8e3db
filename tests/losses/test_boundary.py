import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from kanseg.losses import WeightedLoss
from kanseg.losses.boundary import distance_maps
from tests.losses.test_weighted import batch


def test_maps_are_distances_to_the_nearest_counted_pixel_of_the_other_side():
    target, counted = torch.rand(3, 2, 9, 8) < 0.3, torch.rand(3, 2, 9, 8) < 0.8
    maps = distance_maps(target, counted).numpy()
    for t, c, found in zip(
        target.flatten(0, 1).numpy(),
        counted.flatten(0, 1).numpy(),
        maps.reshape(-1, 9, 8),
        strict=True,
    ):
        to_outside, to_inside = distance_transform_edt(~(~t & c)), distance_transform_edt(~(t & c))
        np.testing.assert_allclose(
            found, np.where(c, np.where(t, to_outside, to_inside), 0), rtol=1e-6
        )


def test_it_is_kervadecs_loss_but_for_a_constant():
    """Their mean of phi p, with phi the signed distance, negative inside: the same gradient."""
    logits, target = batch("binary", ignored=0)
    t = (target == 1).numpy()
    phi = torch.from_numpy(
        np.stack([distance_transform_edt(~x) - distance_transform_edt(x) for x in t])
    ).float()
    slopes = []
    for value in (
        lambda x: (phi * torch.sigmoid(x[:, 0])).mean(),
        lambda x: WeightedLoss({"boundary": 1}, "binary")(x, target),
    ):
        x = logits.clone().requires_grad_()
        value(x).backward()
        slopes.append(x.grad)
    torch.testing.assert_close(*slopes)


def test_worked_out_by_hand():
    """A false alarm two pixels from the object, and a missed pixel at its edge, of six."""
    target = torch.tensor([[[1, 1, 0, 0, 0, 0]]])
    logits = torch.tensor([[[[50.0, -50.0, -50.0, 50.0, -50.0, -50.0]]]])
    assert abs(WeightedLoss({"boundary": 1}, "binary")(logits, target) - (1 + 2) / 6) < 1e-6


def test_a_image_full_of_a_class_has_no_boundary():
    logits = torch.randn(1, 1, 4, 4)
    for value in (0, 1):
        assert WeightedLoss({"boundary": 1}, "binary")(logits, torch.full((1, 4, 4), value)) == 0
