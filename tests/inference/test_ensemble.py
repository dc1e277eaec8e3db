import numpy as np
import pytest
import torch
from torch import nn

import kanseg
from kanseg.data import Preprocess
from kanseg.inference import Ensemble, Predictor
from kanseg.inference.sliding_window import merge_rows
from kanseg.inference.sources import ArrayImage
from kanseg.utils.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)


class Constant(nn.Module):
    """A logit for each class, everywhere."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits[None, :, None, None].expand(len(x), -1, *x.shape[-2:])


class Blur(nn.Module):
    """Two logits that depend on the neighborhood and the place in the tile."""

    def forward(self, x):
        ramp = torch.linspace(-1, 1, x.shape[-1])
        y = nn.functional.avg_pool2d(x, 3, 1, 1).mean(dim=1, keepdim=True) + 0.3 * ramp
        return torch.cat([y, -y], dim=1)


def member(model, resize=None, **options):
    preprocess = Preprocess(mean=(0.5,), std=(0.25,), resize=resize)
    options = {
        "classes": ["a", "b"],
        "colors": [(0, 0, 0), (255, 0, 0)],
        "task": "multiclass",
        "device": "cpu",
    } | options
    return Predictor(model, preprocess, **options)


def test_probabilities_are_the_mean_and_the_variance_is_that_between_the_members():
    first, second = math_softmax(0.0, 1.0), math_softmax(2.0, 0.0)
    ensemble = Ensemble([member(Constant(0.0, 1.0)), member(Constant(2.0, 0.0), tile=(16, 16))])
    np.testing.assert_allclose(
        ensemble.probabilities(IMAGE)[:, 3, 4], (first + second) / 2, rtol=1e-5
    )
    np.testing.assert_allclose(
        ensemble.uncertainty(IMAGE)[20, 20], np.stack([first, second]).var(axis=0).mean(), rtol=1e-4
    )
    assert (ensemble(IMAGE) == 0).all()


def math_softmax(*logits):
    values = np.exp(np.array(logits))
    return values / values.sum()


def test_members_see_images_in_their_own_way():
    members = [
        member(Blur(), tile=(16, 16)),
        member(Blur(), tile=(20, 48), overlap=0.25),
        member(Blur(), resize=(24, 24)),
        member(Blur()),
    ]
    ensemble = Ensemble(members)
    expected = torch.stack([m.probabilities(IMAGE) for m in members]).mean(dim=0)
    torch.testing.assert_close(ensemble.probabilities(IMAGE), expected)


def test_the_variance_is_that_over_all_views_of_all_members():
    members = [member(Blur(), flips=2), member(Constant(0.0, 1.0), flips=2)]
    each = []
    for m in members:
        for flipped in (False, True):
            image = IMAGE[:, ::-1] if flipped else IMAGE
            values = member(m.model).probabilities(np.ascontiguousarray(image)).numpy()
            each.append(values[:, :, ::-1] if flipped else values)
    np.testing.assert_allclose(
        Ensemble(members).uncertainty(IMAGE),
        np.stack(each).var(axis=0).mean(axis=0),
        rtol=1e-3,
        atol=1e-6,
    )


def test_an_ensemble_of_one_is_its_member():
    alone = member(Blur(), tile=(16, 16))
    assert torch.equal(Ensemble([alone]).probabilities(IMAGE), alone.probabilities(IMAGE))
    assert torch.equal(Ensemble([alone]).uncertainty(IMAGE), alone.uncertainty(IMAGE))


def test_other_classes_are_refused():
    with pytest.raises(InputError, match="a, b.*a, c"):
        Ensemble([member(Blur()), member(Blur(), classes=["a", "c"])])
    with pytest.raises(InputError, match="at least one"):
        Ensemble([])


@pytest.mark.parametrize("chunk_rows", [None, 7])
def test_row_chunks_of_several_images_are_those_of_each(chunk_rows):
    other = np.ascontiguousarray(IMAGE[::-1])
    ensemble = Ensemble(
        [member(Blur(), tile=(16, 16), batch_size=3), member(Blur(), resize=(24, 24))]
    )
    images = [ArrayImage(IMAGE), ArrayImage(other)]
    both = merge_rows(ensemble.row_chunks(images, chunk_rows=chunk_rows), 37)
    torch.testing.assert_close(both[0], ensemble.probabilities(IMAGE))
    torch.testing.assert_close(both[1], ensemble.probabilities(other))


def test_several_checkpoints_load_as_one(config):
    from kanseg.training.run import train

    train(config)
    twice = kanseg.load([config.run_dir, config.run_dir], device="cpu", flips=2, tile=(16, 16))
    assert isinstance(twice, Ensemble)
    np.testing.assert_allclose(
        twice.probabilities(IMAGE),
        kanseg.load(config.run_dir, device="cpu", flips=2, tile=(16, 16)).probabilities(IMAGE),
        atol=1e-6,
    )
