import cv2
import numpy as np
import pytest
import torch
from torch import nn

from kanseg.data import Preprocess
from kanseg.export.check import expected
from kanseg.export.network import Deployed, area_weights, linear_weights, mixed_weights, resized
from kanseg.inference.exported import logits_of
from kanseg.inference.predictor import to_probabilities

RNG = np.random.default_rng(0)
TASKS = {"binary": 1, "multiclass": 3, "multilabel": 3}


def images(height, width, count=2):
    return list(RNG.random((count, height, width, 3), dtype=np.float32))


def batch(group):
    return torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2)


# Sizes that shrink on both sides, grow on both, and do one on each side, with fewer and with more
# pixels than 40x48.
@pytest.mark.parametrize(
    "size", [(61, 83), (80, 96), (40, 48), (20, 30), (200, 41), (30, 90), (39, 49), (1, 7)]
)
@pytest.mark.parametrize("interpolation", ["linear", "area"])
def test_preprocessing_in_the_graph_is_that_of_the_training(size, interpolation):
    preprocess = Preprocess(
        3, (0.3, 0.4, 0.5), (0.2, 0.3, 0.4), 0.5, (40, 48), interpolation, floats=True
    )
    group = images(*size)
    ours = Deployed(nn.Identity(), preprocess, "multiclass").prepared(batch(group))
    torch.testing.assert_close(
        ours, torch.stack([preprocess(image) for image in group]), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("target", [(31, 20), (80, 30)])
def test_area_is_that_of_opencv(target):
    image = images(60, 45, 1)[0]
    theirs = cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA)
    torch.testing.assert_close(
        resized(batch([image]), target, "area")[0].permute(1, 2, 0),
        torch.from_numpy(theirs),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("weights", [area_weights, linear_weights, mixed_weights])
@pytest.mark.parametrize(("source", "target"), [(7, 3), (3, 7), (5, 5), (1, 4), (1000, 1)])
def test_a_constant_stays_constant(weights, source, target):
    torch.testing.assert_close(
        weights(source, target).sum(dim=1), torch.ones(target, dtype=torch.float64)
    )


@pytest.mark.parametrize(("task", "count"), TASKS.items())
def test_logits_of_probabilities_give_the_probabilities(task, count):
    logits = torch.randn(2, count, 5, 6) * 5
    probabilities = to_probabilities(logits, task)
    again = to_probabilities(logits_of(probabilities, task), task)
    torch.testing.assert_close(again, probabilities, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_logits_of_certain_probabilities_are_finite(task):
    assert logits_of(torch.tensor([[0.0, 1.0]]).reshape(1, 2, 1, 1), task).isfinite().all()


@pytest.mark.parametrize(("task", "count"), TASKS.items())
@pytest.mark.parametrize("resize", [None, (16, 24)])
def test_outputs_are_those_of_the_network_behind_its_own_preprocessing(task, count, resize):
    model, preprocess, group = (
        nn.Conv2d(3, count, 3, padding=1).eval(),
        Preprocess(3, (0.5,) * 3, (0.1,) * 3, resize=resize),
        images(33, 21),
    )
    truth = expected(model, preprocess, task, group)
    with torch.no_grad():
        logits, probabilities, labels = (
            Deployed(model, preprocess, task, output)(batch(group))
            for output in ("logits", "probabilities", "labels")
        )
    torch.testing.assert_close(probabilities, truth, rtol=0, atol=1e-5)
    torch.testing.assert_close(to_probabilities(logits, task), truth, rtol=0, atol=1e-5)
    assert torch.equal(
        labels.long(),
        (probabilities > 0.5).long() if task == "multilabel" else probabilities.argmax(dim=1),
    )
    assert logits.shape == (2, count, 33, 21)


def test_logits_at_the_images_own_scale_are_the_networks_own():
    model, preprocess, group = (
        nn.Conv2d(3, 2, 1),
        Preprocess(3, (0.5,) * 3, (0.1,) * 3, floats=True),
        images(9, 8),
    )
    own = model(torch.stack([preprocess(image) for image in group]))
    torch.testing.assert_close(Deployed(model, preprocess, "multiclass")(batch(group)), own)


def test_a_classifier_gives_classes():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    group, preprocess = batch(images(9, 8)), Preprocess(3, (0.5,), (0.25,), resize=(4, 4))
    logits, labels = (
        Deployed(model, preprocess, "classification", output)(group)
        for output in ("logits", "labels")
    )
    assert torch.equal(labels, logits.argmax(dim=1))


def test_another_output_is_refused():
    with pytest.raises(ValueError, match="output must be one of"):
        Deployed(nn.Identity(), Preprocess(), "binary", "mask")
