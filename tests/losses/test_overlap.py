import pytest
import torch
from segmentation_models_pytorch import losses as smp

from kanseg.losses import WeightedLoss
from tests.losses.test_weighted import TASKS, WEIGHTS, batch

THEIRS = {
    "dice": (smp.DiceLoss, {}),
    "jaccard": (smp.JaccardLoss, {}),
    "tversky": (smp.TverskyLoss, {"alpha": 0.3, "beta": 0.7}),
}


def test_dice_is_its_formula_over_the_batch():
    logits, target = batch("binary", ignored=0)
    p, y = torch.sigmoid(logits[:, 0]), target.float()
    expected = 1 - 2 * (p * y).sum() / (p.sum() + y.sum())
    torch.testing.assert_close(
        WeightedLoss({"dice": 1}, "binary")(logits, target), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", THEIRS)
def test_values_are_segmentation_models_pytorchs(name, task, weighted):
    kind, options = THEIRS[name]
    logits, target = batch(task)
    if task != "multilabel":
        target[target == 1] = 0  # a class that is not there
    theirs = kind(
        task,
        ignore_index=255,
        class_weights=WEIGHTS[task] if weighted and task != "binary" else None,
        **options,
    )
    ours = WeightedLoss(
        {name: 1}, task, options={name: options}, class_weights=WEIGHTS[task] if weighted else None
    )
    torch.testing.assert_close(ours(logits, target), theirs(logits, target), rtol=1e-5, atol=1e-6)


def test_smoothing_is_segmentation_models_pytorchs():
    logits, target = batch("multiclass")
    expected = smp.DiceLoss("multiclass", ignore_index=255, smooth=3.0)(logits, target)
    torch.testing.assert_close(
        WeightedLoss({"dice": 1}, "multiclass", options={"dice": {"smooth": 3.0}})(logits, target),
        expected,
    )


def test_tversky_by_hand():
    """One hit, one false alarm and two misses: 1 / (1 + 0.3 + 2 * 0.7)."""
    target = torch.tensor([[[1, 0, 1, 1, 255]]])
    logits = torch.tensor([[[[50.0, 50.0, -50.0, -50.0, 50.0]]]])
    options = {"tversky": {"alpha": 0.3, "beta": 0.7}}
    assert (
        abs(WeightedLoss({"tversky": 1}, "binary", options=options)(logits, target) - (1 - 1 / 2.7))
        < 1e-6
    )


def test_the_focal_exponent_is_on_each_class():
    logits, target = batch("multilabel", ignored=0)
    each = torch.stack(
        [
            WeightedLoss({"tversky": 1}, "binary")(logits[:, i : i + 1], target[:, i])
            for i in range(3)
        ]
    )
    focal = WeightedLoss({"tversky": 1}, "multilabel", options={"tversky": {"gamma": 0.75}})
    torch.testing.assert_close(focal(logits, target), (each**0.75).mean())


def test_a_class_without_weight_has_no_part():
    logits, target = batch("multilabel")
    loss = WeightedLoss({"dice": 1}, "multilabel", class_weights=[1.0, 0.0, 1.0])
    changed = logits.clone()
    changed[:, 1] = torch.randn_like(changed[:, 1])
    torch.testing.assert_close(loss(changed, target), loss(logits, target))
