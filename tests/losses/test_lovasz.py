import itertools

import torch
from segmentation_models_pytorch.losses import LovaszLoss

from kanseg.losses import WeightedLoss
from kanseg.losses.lovasz import jaccard_slope
from tests.losses.test_weighted import batch


def test_several_classes_cost_what_they_cost_in_segmentation_models_pytorch():
    logits, target = batch("multiclass")
    target[target == 2] = 0  # a class that is not there is left out of the mean
    expected = LovaszLoss("multiclass", ignore_index=255)(logits, target)
    torch.testing.assert_close(WeightedLoss({"lovasz": 1}, "multiclass")(logits, target), expected)


def test_hard_predictions_cost_the_jaccard_loss():
    """What the extension extends: on errors of 0 and 1 it is 1 - IoU."""
    for target, wrong in itertools.product(itertools.product((0, 1), repeat=4), repeat=2):
        if not any(target):
            continue
        t, w = torch.tensor(target).bool(), torch.tensor(wrong).bool()
        predicted = t ^ w
        logits = torch.where(predicted, 50.0, -50.0).view(1, 1, 1, 4)
        expected = 1 - (predicted & t).sum() / (predicted | t).sum()
        assert (
            abs(WeightedLoss({"lovasz": 1}, "binary")(logits, t.long().view(1, 1, 4)) - expected)
            < 1e-6
        )


def test_the_slope_is_the_difference_of_jaccard_losses():
    target = torch.tensor([[True, False, False, True, False, True]])
    total = target.sum().item()
    losses = [0.0]
    for k in range(1, 7):
        missed, alarms = target[0, :k].sum().item(), (~target[0, :k]).sum().item()
        losses.append(1 - (total - missed) / (total + alarms))
    torch.testing.assert_close(jaccard_slope(target)[0], torch.tensor(losses).diff())


def test_a_batch_without_the_class_costs_nothing():
    logits = torch.randn(1, 1, 4, 4)
    assert WeightedLoss({"lovasz": 1}, "binary")(logits, torch.zeros(1, 4, 4).long()) == 0
