import numpy as np
import pytest
import torch
from segmentation_models_pytorch import losses as smp
from torch.nn import functional as F

from kanseg.losses import WeightedLoss
from tests.losses.test_weighted import TASKS, batch


def test_cross_entropy_is_the_mean_log_likelihood_of_the_pixels_that_count():
    logits, target = batch("multiclass")
    p = torch.softmax(logits.double(), 1).numpy()
    b, y, x = np.nonzero(target.numpy() != 255)
    expected = -np.log(p[b, target.numpy()[b, y, x], y, x]).mean()
    assert abs(WeightedLoss({"ce": 1}, "multiclass")(logits, target) - expected) < 1e-5


def test_weighted_cross_entropy_is_torchs():
    logits, target = batch("multiclass")
    weights = [0.5, 2.0, 0.0, 1.0]
    expected = F.cross_entropy(logits, target, weight=torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(
        WeightedLoss({"ce": 1}, "multiclass", class_weights=weights)(logits, target), expected
    )


def test_multilabel_cross_entropy_is_torchs_binary_one_over_what_counts():
    logits, target = batch("multilabel")
    counts = target != 255
    expected = F.binary_cross_entropy_with_logits(logits[counts], target[counts].float())
    torch.testing.assert_close(WeightedLoss({"ce": 1}, "multilabel")(logits, target), expected)


def test_multilabel_weights_weigh_the_classes():
    logits, target = batch("multilabel", ignored=0)
    each = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none").mean(
        (0, 2, 3)
    )
    weights = torch.tensor([1.0, 0.0, 3.0])
    torch.testing.assert_close(
        WeightedLoss({"ce": 1}, "multilabel", class_weights=weights.tolist())(logits, target),
        (each * weights).sum() / 4,
    )


@pytest.mark.parametrize("task", TASKS)
def test_focal_without_focus_is_cross_entropy(task):
    logits, target = batch(task)
    focal = WeightedLoss({"focal": 1}, task, options={"focal": {"gamma": 0.0}})
    torch.testing.assert_close(focal(logits, target), WeightedLoss({"ce": 1}, task)(logits, target))


def test_binary_focal_is_segmentation_models_pytorchs():
    logits, target = batch("binary")
    expected = smp.FocalLoss("binary", alpha=0.25, gamma=1.5, ignore_index=255)(
        logits, target.float()
    )
    torch.testing.assert_close(
        WeightedLoss({"focal": 1}, "binary", options={"focal": {"alpha": 0.25, "gamma": 1.5}})(
            logits, target
        ),
        expected,
    )


def test_multiclass_focal_by_hand():
    logits = torch.tensor([0.5, 0.25, 0.25]).log().view(1, 3, 1, 1)
    value = WeightedLoss({"focal": 1}, "multiclass")(logits, torch.tensor([[[1]]]))
    assert abs(value - 0.75**2 * np.log(4)) < 1e-6


def test_a_flat_power_has_a_finite_slope_where_the_network_is_sure():
    logits = torch.full((1, 1, 2, 2), 200.0, requires_grad=True)
    WeightedLoss({"focal": 1}, "binary", options={"focal": {"gamma": 0.5}})(
        logits, torch.ones(1, 2, 2).long()
    ).backward()
    assert torch.isfinite(logits.grad).all()
