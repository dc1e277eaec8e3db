import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kanseg.data import read_label
from kanseg.losses import WeightedLoss
from kanseg.training.run import train
from kanseg.training.segmentation import SegmentationTask
from kanseg.utils.errors import InputError


def opened(config):
    """A task with its data, and its training set."""
    task = SegmentationTask(config)
    task.check()
    return task, task.open(checkpoint=None, log=lambda _: None)


def test_balanced_weights_are_from_the_training_set(config):
    config.training.class_weights = "balanced"
    task, dataset = opened(config)
    counts = np.zeros(2)
    for sample in dataset.samples:
        counts += np.bincount(read_label(sample, dataset.label_spec).ravel(), minlength=256)[:2]
    expected = WeightedLoss(
        config.training.loss, "binary", class_weights=(counts.sum() / 2 / counts).tolist()
    )
    logits, target = torch.randn(2, 1, 8, 8), torch.randint(2, (2, 8, 8))
    torch.testing.assert_close(task.loss(logits, target), expected(logits, target))


def test_the_loss_has_the_options_of_the_settings(config):
    options = {"tversky": {"alpha": 0.1, "beta": 0.9}}
    config.training.loss, config.training.loss_options = {"tversky": 1.0}, options
    config.training.supervision = [3.0, 1.0]
    task, _ = opened(config)
    expected = WeightedLoss({"tversky": 1.0}, "binary", options=options, supervision=[3.0, 1.0])
    outputs, target = torch.randn(2, 2, 1, 8, 8).unbind(0), torch.randint(2, (2, 8, 8))
    torch.testing.assert_close(task.loss(outputs, target), expected(outputs, target))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": {"lovas": 1.0}}, "did you mean 'lovasz'"),
        ({"loss_options": {"dice": {"smoth": 1.0}}}, "no option 'smoth'; did you mean 'smooth'"),
        ({"class_weights": [1.0, -1.0]}, "training.class_weights must be"),
        ({"class_weights": [1.0, 1.0, 1.0]}, "3 numbers for 2 classes .background, foreground."),
        ({"supervision": [-1.0, 2.0]}, "training.supervision must be"),
        ({"tolerance": -1.0}, "tolerance of surfaces must be 0 or more"),
        ({"monitor": "iou/forground"}, "'forground'.*did you mean 'foreground'"),
        ({"monitor": "mean_iuo"}, "not one of .*did you mean 'mean_iou'"),
    ],
)
def test_settings_that_cannot_be_used_stop_before_anything_is_written(config, settings, message):
    for name, value in settings.items():
        setattr(config.training, name, value)
    with pytest.raises(InputError, match=message):
        train(config)
    assert not Path(config.run_dir).exists()


@pytest.mark.parametrize("spacing", [[1.0], [1.0, 0.0], [1.0, 2.0, 3.0]])
def test_a_spacing_is_two_positive_numbers(config, spacing):
    config.data.spacing = spacing
    with pytest.raises(InputError, match="two positive numbers"):
        SegmentationTask(config).check()


def test_the_iou_of_one_class_can_select_the_weights(config):
    config.training.monitor, config.training.epochs = "iou/foreground", 1
    train(config)
    last = json.loads((Path(config.run_dir) / "log.jsonl").read_text().splitlines()[-1])
    assert last["val"]["iou/foreground"] == last["val"]["iou"]["foreground"]


@pytest.mark.parametrize("monitor", ["per_image_mean_dice", "mean_specificity", "mean_dice"])
def test_means_can_select_the_weights(config, monitor):
    config.training.monitor, config.training.epochs = monitor, 1
    train(config)
    assert (
        monitor
        in json.loads((Path(config.run_dir) / "log.jsonl").read_text().splitlines()[-1])["val"]
    )


def test_surfaces_can_be_left_out(config):
    config.training.surface, config.training.epochs = False, 1
    results = train(config)
    assert "mean_hd95" not in results["test"]["per_image"]
    assert "hd95" not in (Path(config.run_dir) / "scores_test.csv").read_text()
