import pytest
import torch

from kanseg.losses import WeightedLoss

LOSSES = ("ce", "dice", "tversky", "focal")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("task", "logits", "target"),
    [
        ("binary", (2, 1, 4, 4), (2, 1, 4, 4)),
        ("binary", (2, 2, 4, 4), (2, 4, 4)),
        ("multiclass", (2, 3, 4, 4), (2, 1, 4, 4)),
        ("multiclass", (2, 3, 1, 1), (2, 4, 4)),
        ("multilabel", (2, 3, 4, 4), (2, 4, 4)),
    ],
)
def test_shapes_that_would_be_broadcast_are_an_error(loss, task, logits, target):
    with pytest.raises(ValueError, match="target of|1 logit"):
        WeightedLoss({loss: 1.0}, task)(torch.zeros(logits), torch.zeros(target, dtype=torch.long))
