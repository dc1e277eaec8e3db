import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss

from kanseg.metrics import SegmentationMetrics, calibrations
from kanseg.metrics.calibration import BINS, image_calibration


def whole(probabilities, target):
    parts = calibrations(probabilities, target)
    return sum(parts[1:], parts[0])


def textbook(confidence, right):
    """Guo et al. 2017, equation 3, bin by bin."""
    error = 0.0
    for low in np.arange(BINS) / BINS:
        mine = (confidence > low) & (confidence <= low + 1 / BINS)
        if mine.any():
            error += mine.mean() * abs(right[mine].mean() - confidence[mine].mean())
    return error


def test_multiclass_error_is_the_textbooks():
    probabilities = torch.softmax(2 * torch.randn(3, 4, 20, 20), dim=1)
    target = torch.randint(4, (3, 20, 20))
    target[torch.rand(3, 20, 20) < 0.2] = 255
    used = (target != 255).numpy()
    confidence, decided = probabilities.max(dim=1)
    expected = textbook(confidence.numpy()[used], (decided == target).numpy()[used])
    assert whole(probabilities, target).ece == pytest.approx(expected, abs=1e-6)


def test_worked_out_by_hand():
    """0.9 once right and once wrong, 0.6 right: bins |0.5 - 0.9| * 2/3 + |1 - 0.6| * 1/3."""
    foreground = torch.tensor([[[0.9, 0.9, 0.6, 0.8]]])
    found = whole(
        torch.stack([1 - foreground, foreground], dim=1), torch.tensor([[[1, 0, 1, 255]]])
    )
    assert found.ece == pytest.approx(0.4, abs=1e-6)
    assert found.brier_score == pytest.approx((0.01 + 0.81 + 0.16) / 3, abs=1e-6)


def test_certainty_that_is_right_costs_nothing_and_certainty_that_is_wrong_all():
    target = torch.randint(3, (1, 5, 5))
    right = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2).float()
    assert (whole(right, target).ece, whole(right, target).brier_score) == (0.0, 0.0)
    wrong = right.roll(1, dims=1)
    assert (whole(wrong, target).ece, whole(wrong, target).brier_score) == (1.0, 1.0)


def test_brier_score_of_two_classes_is_scikit_learns():
    foreground, target = torch.rand(2, 9, 9), torch.randint(2, (2, 9, 9))
    found = whole(torch.stack([1 - foreground, foreground], dim=1), target)
    assert found.brier_score == pytest.approx(
        brier_score_loss(target.ravel(), foreground.ravel()), abs=1e-6
    )


def test_each_label_is_a_binary_task():
    foreground, target = torch.rand(2, 3, 9, 9), torch.randint(2, (2, 3, 9, 9))
    target[torch.rand(2, 3, 9, 9) < 0.3] = 255
    found = whole(foreground, target)
    single = [
        whole(torch.stack([1 - foreground[:, i], foreground[:, i]], dim=1), target[:, i])
        for i in range(3)
    ]
    np.testing.assert_allclose(found.errors, [one.ece for one in single], atol=1e-6)
    assert found.brier_score == pytest.approx(
        np.mean([one.brier_score for one in single]), abs=1e-6
    )


def test_a_image_without_a_pixel_that_counts_is_undefined_and_adds_nothing():
    probabilities, target = torch.softmax(torch.randn(2, 3, 5, 5), 1), torch.randint(3, (2, 5, 5))
    target[1] = 255
    parts = calibrations(probabilities, target)
    assert np.isnan(parts[1].ece)
    assert (parts[0] + parts[1]).ece == parts[0].ece


def test_scores_of_a_set_hold_the_error_over_its_pixels_and_the_mean_over_images():
    probabilities, target = torch.softmax(torch.randn(4, 3, 5, 5), 1), torch.randint(3, (4, 5, 5))
    metrics = SegmentationMetrics("abc")
    for i in (2, 0, 3, 1):
        one = slice(i, i + 1)
        metrics.update(
            probabilities.argmax(1)[one], target[one], [i], probabilities=probabilities[one]
        )
    result = metrics.compute()
    assert result["calibration"]["ece"] == pytest.approx(whole(probabilities, target).ece)
    assert result["per_image"]["mean_ece"] == pytest.approx(
        np.mean([part.ece for part in calibrations(probabilities, target)])
    )
    assert "calibration" not in SegmentationMetrics("abc").compute()


def test_images_are_counted_as_pixels_are():
    probabilities = torch.softmax(2 * torch.randn(50, 4), dim=1)
    labels = torch.randint(4, (50,))
    found = image_calibration(probabilities.numpy(), labels.numpy())
    expected = whole(probabilities.T[None, :, :, None], labels[None, :, None])
    assert found.ece == pytest.approx(expected.ece, abs=1e-6)
    assert found.brier_score == pytest.approx(expected.brier_score, abs=1e-6)


def test_of_many_classes_none_is_ignored():
    """255 is the ignored value of masks, and a class of 300."""
    probabilities = np.zeros((1, 300), np.float32)
    probabilities[0, 255] = 1
    found = image_calibration(probabilities, np.array([255]))
    assert (found.bins[0, :, 0].sum(), found.ece, found.brier_score) == (1, 0, 0)
