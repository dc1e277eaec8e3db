import math

import pytest
import torch

from kanseg.inference.segmenter import decide, entropy


def test_entropy_by_hand():
    p = torch.tensor([[1.0, 0.5, 0.25], [0.0, 0.5, 0.75]])[:, None]
    third = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    torch.testing.assert_close(entropy(p, "binary")[0], torch.tensor([0.0, 1.0, third]))


def test_entropy_of_classes_that_are_alike_is_one():
    torch.testing.assert_close(entropy(torch.full((5, 1, 1), 0.2), "multiclass"), torch.ones(1, 1))


def test_entropy_of_a_multilabel_task_is_the_mean_over_its_answers():
    torch.testing.assert_close(
        entropy(torch.tensor([0.5, 1.0])[:, None, None], "multilabel"), torch.full((1, 1), 0.5)
    )


@pytest.mark.parametrize(
    ("task", "expected"), [("multiclass", [[1]]), ("multilabel", [[[0]], [[1]]])]
)
def test_labels_are_the_likeliest_class_or_all_above_a_half(task, expected):
    assert decide(torch.tensor([0.5, 0.6])[:, None, None], task).tolist() == expected
