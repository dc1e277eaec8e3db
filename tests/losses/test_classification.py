import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from kanseg.losses import ClassificationLoss, balanced_weights
from kanseg.utils.errors import InputError


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0]])
class TestClassificationLoss:
    def test_class_indices_cost_what_they_cost_in_torch(self, smoothing, weights):
        logits, labels = 3 * torch.randn(20, 4), torch.arange(20) % 4
        expected = F.cross_entropy(
            logits,
            labels,
            weight=None if weights is None else torch.tensor(weights),
            label_smoothing=smoothing,
        )
        torch.testing.assert_close(
            ClassificationLoss(label_smoothing=smoothing, class_weights=weights)(logits, labels),
            expected,
        )

    def test_soft_targets_of_one_class_cost_as_much_as_its_index(self, smoothing, weights):
        loss = ClassificationLoss(label_smoothing=smoothing, class_weights=weights)
        logits, labels = 3 * torch.randn(20, 4), torch.arange(20) % 4
        torch.testing.assert_close(loss(logits, F.one_hot(labels, 4)), loss(logits, labels))

    def test_half_precision_logits_give_a_finite_float32_loss(self, smoothing, weights):
        value = ClassificationLoss(label_smoothing=smoothing, class_weights=weights)(
            (torch.randn(8, 4) * 2e4).half(), torch.arange(8) % 4
        )
        assert value.dtype == torch.float32
        assert torch.isfinite(value)


def test_mixed_targets_cost_what_they_cost_in_torch():
    logits, targets = torch.randn(20, 4), torch.rand(20, 4).softmax(dim=1)
    torch.testing.assert_close(
        ClassificationLoss()(logits, targets), F.cross_entropy(logits, targets)
    )


def test_balanced_weights_are_scikit_learns():
    labels = [0, 0, 0, 1, 2, 2]
    np.testing.assert_allclose(
        balanced_weights(labels, 3),
        compute_class_weight("balanced", classes=np.arange(3), y=labels),
    )
    assert balanced_weights(labels, 4)[3] == 0


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 1.0}, {"class_weights": [0.0, 0.0]}, {"class_weights": [1.0, -1.0]}],
)
def test_a_classification_loss_refuses_what_makes_no_sense(options):
    with pytest.raises(InputError, match="must be"):
        ClassificationLoss(**options)


def test_as_many_weights_as_classes():
    with pytest.raises(InputError, match="2 class weights for 3 classes"):
        ClassificationLoss(class_weights=[1.0, 2.0])(torch.zeros(1, 3), torch.tensor([0]))
