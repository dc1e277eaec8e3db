import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from kanseg.losses import check_class_weights, frequency_weights
from kanseg.utils.errors import InputError


def test_balanced_weights_of_pixels_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [5, 1, 3])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(frequency_weights(np.bincount(labels), "balanced"), expected)


def test_median_frequency_balancing_by_hand():
    assert frequency_weights(np.array([80, 4, 16]), "median") == [0.2, 4.0, 1.0]


@pytest.mark.parametrize(
    ("kind", "expected"), [("balanced", [4 / 9, 0.0, 4 / 3]), ("median", [2 / 3, 0.0, 2.0])]
)
def test_a_class_without_pixels_has_no_weight(kind, expected):
    np.testing.assert_allclose(frequency_weights(np.array([30, 0, 10]), kind), expected)


def test_classes_of_a_multilabel_task_are_weighed_by_where_they_are():
    assert frequency_weights(np.array([[90, 10], [60, 40]]), "balanced") == [2.5, 0.625]


@pytest.mark.parametrize("kind", ["balanced", "median"])
def test_no_pixels_at_all_give_no_weights(kind):
    assert frequency_weights(np.zeros(2, np.int64), kind) == [0.0, 0.0]


def test_one_weight_a_class():
    with pytest.raises(InputError, match="3 numbers for 2 classes .a, b."):
        check_class_weights([1.0, 1.0, 2.0], ["a", "b"])
