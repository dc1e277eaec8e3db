import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from kanseg.errors import InputError
from kanseg.losses import ClassificationLoss, WeightedLoss, balanced_weights


def logits_and_target(classes, ignored=0.2):
    logits = torch.randn(2, classes, 6, 7)
    target = torch.randint(max(classes, 2), (2, 6, 7))
    target[torch.rand(2, 6, 7) < ignored] = 255
    return logits, target


def test_cross_entropy_is_the_mean_log_likelihood_of_the_pixels_that_count():
    logits, target = logits_and_target(4)
    p = torch.softmax(logits.double(), 1).numpy()
    b, y, x = np.nonzero(target.numpy() != 255)
    expected = -np.log(p[b, target.numpy()[b, y, x], y, x]).mean()
    assert abs(WeightedLoss({"ce": 1}, "multiclass")(logits, target) - expected) < 1e-5


def test_binary_cross_entropy_is_that_of_two_classes():
    logits, target = logits_and_target(1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(WeightedLoss({"ce": 1}, "binary")(logits, target), WeightedLoss({"ce": 1}, "multiclass")(two, target))


def test_dice_is_its_formula_over_the_batch():
    logits, target = logits_and_target(1, ignored=0)
    p, y = torch.sigmoid(logits[:, 0]), target.float()
    expected = 1 - 2 * (p * y).sum() / (p.sum() + y.sum())
    torch.testing.assert_close(WeightedLoss({"dice": 1}, "binary")(logits, target), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("task", "classes"), [("binary", 1), ("multiclass", 4)])
@pytest.mark.parametrize("name", ["ce", "dice"])
class TestEveryLoss:
    def test_ignored_pixels_do_not_count(self, name, task, classes):
        loss = WeightedLoss({name: 1.0}, task)
        logits, target = logits_and_target(classes)
        changed = torch.where((target == 255).unsqueeze(1), logits + 50 * torch.randn_like(logits), logits)
        torch.testing.assert_close(loss(changed, target), loss(logits, target), atol=1e-5, rtol=0)

    def test_a_perfect_prediction_costs_nothing_and_the_gradient_leads_there(self, name, task, classes):
        loss = WeightedLoss({name: 1.0}, task)
        logits, target = logits_and_target(classes, ignored=0)
        truth = 2.0 * target.unsqueeze(1) - 1 if task == "binary" else 2.0 * torch.nn.functional.one_hot(target, 4).permute(0, 3, 1, 2) - 1
        assert loss(50 * truth, target) < 1e-4
        logits.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(logits, target), logits)
        assert ((gradient * truth) <= 0).float().mean() > 0.99

    def test_half_precision_logits_give_a_finite_float32_loss(self, name, task, classes):
        logits = torch.randn(1, classes, 512, 512).half() * 20
        target = torch.randint(max(classes, 2), (1, 512, 512))
        value = WeightedLoss({name: 1.0}, task)(logits, target)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)

    def test_a_batch_without_a_pixel_that_counts_is_finite(self, name, task, classes):
        logits = torch.randn(1, classes, 4, 4, requires_grad=True)
        value = WeightedLoss({name: 1.0}, task)(logits, torch.full((1, 4, 4), 255))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


def test_weights_add_up():
    logits, target = logits_and_target(3)
    parts = [WeightedLoss({name: 1}, "multiclass")(logits, target) for name in ("ce", "dice")]
    torch.testing.assert_close(WeightedLoss({"ce": 0.5, "dice": 2}, "multiclass")(logits, target), 0.5 * parts[0] + 2 * parts[1])


@pytest.mark.parametrize("weights", [{}, {"cross": 1.0}, {"ce": -1.0, "dice": 2.0}, {"ce": 0.0}, {"ce": float("nan")}])
def test_unknown_losses_are_named(weights):
    with pytest.raises(InputError, match="ce, dice"):
        WeightedLoss(weights, "binary")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0]])
class TestClassificationLoss:
    def test_class_indices_cost_what_they_cost_in_torch(self, smoothing, weights):
        logits, labels = 3 * torch.randn(20, 4), torch.arange(20) % 4
        expected = F.cross_entropy(logits, labels, weight=None if weights is None else torch.tensor(weights), label_smoothing=smoothing)
        torch.testing.assert_close(ClassificationLoss(label_smoothing=smoothing, class_weights=weights)(logits, labels), expected)

    def test_soft_targets_of_one_class_cost_as_much_as_its_index(self, smoothing, weights):
        loss = ClassificationLoss(label_smoothing=smoothing, class_weights=weights)
        logits, labels = 3 * torch.randn(20, 4), torch.arange(20) % 4
        torch.testing.assert_close(loss(logits, F.one_hot(labels, 4)), loss(logits, labels))

    def test_half_precision_logits_give_a_finite_float32_loss(self, smoothing, weights):
        value = ClassificationLoss(label_smoothing=smoothing, class_weights=weights)((torch.randn(8, 4) * 2e4).half(), torch.arange(8) % 4)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)


def test_mixed_targets_cost_what_they_cost_in_torch():
    logits, targets = torch.randn(20, 4), torch.rand(20, 4).softmax(dim=1)
    torch.testing.assert_close(ClassificationLoss()(logits, targets), F.cross_entropy(logits, targets))


def test_balanced_weights_are_scikit_learns():
    labels = [0, 0, 0, 1, 2, 2]
    np.testing.assert_allclose(balanced_weights(labels, 3), compute_class_weight("balanced", classes=np.arange(3), y=labels))
    assert balanced_weights(labels, 4)[3] == 0


@pytest.mark.parametrize("options", [{"label_smoothing": 1.0}, {"class_weights": [0.0, 0.0]}, {"class_weights": [1.0, -1.0]}])
def test_a_classification_loss_refuses_what_makes_no_sense(options):
    with pytest.raises(InputError, match="must be"):
        ClassificationLoss(**options)


def test_as_many_weights_as_classes():
    with pytest.raises(InputError, match="2 class weights for 3 classes"):
        ClassificationLoss(class_weights=[1.0, 2.0])(torch.zeros(1, 3), torch.tensor([0]))
