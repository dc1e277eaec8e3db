import math

import numpy as np
import pytest
import torch

from kanseg.metrics import SegmentationMetrics
from kanseg.utils.errors import InputError


def iou_score(output, target):
    """metrics.py of U-KAN, word for word but for the Hausdorff distance."""
    smooth = 1e-5
    output = torch.sigmoid(output).data.cpu().numpy()
    target = target.data.cpu().numpy()
    output_ = output > 0.5
    target_ = target > 0.5
    intersection = (output_ & target_).sum()
    union = (output_ | target_).sum()
    iou = (intersection + smooth) / (union + smooth)
    dice = (2 * iou) / (iou + 1)
    return iou, dice


def their_validation(logits, target, batch_size):
    """validate() of train.py: AverageMeter.update(value, input.size(0))."""
    totals, count = np.zeros(2), 0
    for start in range(0, len(logits), batch_size):
        part = slice(start, start + batch_size)
        totals += np.array(iou_score(logits[part], target[part])) * len(logits[part])
        count += len(logits[part])
    return totals / count


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
@pytest.mark.parametrize("classes", [1, 3])
def test_it_is_their_code(classes, batch_size):
    logits, target = torch.randn(8, classes, 9, 7), (torch.rand(8, classes, 9, 7) < 0.2).long()
    logits[2:4], target[2:4] = -1.0, 0  # nothing there, nothing predicted
    predicted = (logits > 0).long()
    metrics = (
        SegmentationMetrics("ab", "binary")
        if classes == 1
        else SegmentationMetrics("abc", "multilabel")
    )
    pair = (predicted[:, 0], target[:, 0]) if classes == 1 else (predicted, target)
    order = torch.randperm(8)
    for part in order.split(3):
        metrics.update(pair[0][part], pair[1][part], part.tolist())
    found = metrics.u_kan(batch_size)
    assert found["batch_size"] == batch_size
    np.testing.assert_allclose(
        [found["iou"], found["dice"]], their_validation(logits, target, batch_size), rtol=1e-12
    )


def test_classes_that_exclude_each_other_are_not_theirs():
    with pytest.raises(InputError, match="binary and multilabel"):
        SegmentationMetrics("abc").u_kan(8)


def test_no_images_have_no_score_and_no_batch_is_refused():
    assert math.isnan(SegmentationMetrics("ab", "binary").u_kan(8)["iou"])
    with pytest.raises(InputError, match="batch_size"):
        SegmentationMetrics("ab", "binary").u_kan(0)
