import pytest
import torch

from kanseg.metrics import confusion_matrices

ZEROS = torch.zeros(2, 4, 5, dtype=torch.long)


@pytest.mark.parametrize(
    ("predicted", "target"), [(3, 0), (0, 3), (-1, 0), (0, -1), (255, 0)], ids=str
)
def test_a_class_index_out_of_range_is_an_error_and_not_another_class(predicted, target):
    with pytest.raises(ValueError, match="from 0 to 2"):
        confusion_matrices(ZEROS + predicted, ZEROS + target, 3)


def test_what_is_predicted_at_ignored_pixels_does_not_count():
    assert confusion_matrices(ZEROS + 9, ZEROS + 255, 3).sum() == 0


def test_other_shapes_are_an_error():
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrices(ZEROS[:1], ZEROS, 3)
