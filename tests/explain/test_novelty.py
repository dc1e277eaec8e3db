"""Novelty: the share of functions whose input was not seen on the reference images."""

import numpy as np
import pytest
import torch
from commands import kanseg_command
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

from conftest import make_folder, store_network
from kanseg.explain.novelty import auroc, validate_novelty
from kanseg.inference import Predictor
from kanseg.inference.ensemble import Ensemble
from kanseg.inference.novelty import input_ranges, novelty, novelty_segmenter
from kanseg.layers import KANActivation, KANConv2d
from kanseg.utils.errors import InputError


@pytest.mark.parametrize("basis", ["gram", "bspline"])
def test_the_share_of_functions_outside_their_range(basis):
    network = KANActivation(4, basis=basis)
    ranges = input_ranges(network, [torch.rand(2, 4, 16, 16) for _ in range(3)])
    images = torch.full((1, 4, 2, 2), 0.5)
    images[0, 0, 0, 0] = 1.5
    images[0, :3, 1, 1] = -0.5
    expected = torch.tensor([[0.25, 0.0], [0.0, 0.75]])
    torch.testing.assert_close(novelty(network, images, ranges)[0], expected)


def test_ranges_are_quantiles():
    network = KANActivation(2, domain="identity")
    batches = [torch.randn(1, 2, 100, 100) for _ in range(20)]
    lo, hi = input_ranges(network, batches)[""]
    assert torch.allclose(hi, torch.tensor(3.09), atol=0.3)
    assert torch.allclose(lo, torch.tensor(-3.09), atol=0.3)


def test_layers_count_alike_at_the_size_of_the_image():
    network = nn.Sequential(KANActivation(3), nn.MaxPool2d(2), KANConv2d(3, 8, 1, basis="bspline"))
    ranges = input_ranges(network, [torch.rand(1, 3, 8, 8)])
    images = torch.full((1, 3, 8, 8), 9.0)
    torch.testing.assert_close(novelty(network, images, ranges), torch.ones(1, 8, 8))
    images[:, 1:] = 0.5  # of 3 functions one is outside before the pool, and one behind it
    found = novelty(network, images, ranges)
    torch.testing.assert_close(found, torch.full((1, 8, 8), 1 / 3))


def test_networks_without_functions_are_refused():
    with pytest.raises(InputError, match="learned functions"):
        input_ranges(nn.Conv2d(3, 2, 1), [torch.rand(1, 3, 4, 4)])


@pytest.fixture
def data(tmp_path):
    """A data set, and images of another kind."""
    own = make_folder(tmp_path / "set", count=6, size=(24, 32))
    (tmp_path / "other").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        image = rng.integers(0, 2, (24, 32, 3)) * 255
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "other" / f"{i}.png")
    return sorted((own / "images").iterdir()), sorted((tmp_path / "other").iterdir())


def test_new_images_are_found(tmp_path, data):
    own, other = data
    predictor = Predictor.from_checkpoint(store_network(tmp_path / "net"))
    predictor.novelty = novelty_segmenter(predictor, own[:4])
    scores = validate_novelty(predictor, own[4:], other, errors=[0.1, 0.2])
    assert scores["novelty"].image_auroc == 1
    assert scores["novelty"].pixel_auroc > 0.8
    assert set(scores) == {"novelty", "uncertainty"}
    assert abs(scores["novelty"].error_correlation) == pytest.approx(1)


def test_tiles_give_the_map_of_the_whole_image_away_from_their_borders(tmp_path, data):
    own, other = data
    folder = store_network(tmp_path / "net", depth=1)
    image = np.array(Image.open(other[0]))
    maps = []
    for tile in ((64, 64), (24, 24)):
        predictor = Predictor.from_checkpoint(folder, tile=tile)
        maps.append(novelty_segmenter(predictor, own).probabilities(image)[0])
    assert maps[0].shape == (24, 32)
    assert (maps[0] - maps[1]).abs().mean() < 0.05
    both = Ensemble([Predictor.from_checkpoint(folder, tile=(64, 64))] * 2)
    torch.testing.assert_close(novelty_segmenter(both, own).probabilities(image)[0], maps[0])


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    negatives, positives = rng.integers(0, 9, 30), rng.integers(2, 12, 20)
    labels = [0] * 30 + [1] * 20
    expected = roc_auc_score(labels, [*negatives, *positives])
    assert auroc(negatives, positives) == pytest.approx(expected)


@pytest.mark.parametrize("large", [[], ["--large", "100"]])
def test_predict_writes_the_maps(tmp_path, data, large):
    own, _ = data
    folder = store_network(tmp_path / "net")
    images = ["--input", own[0].parent, "--novelty", own[0].parent]
    done = kanseg_command(
        "predict", "--checkpoint", folder, *images, "--output", tmp_path / "out", *large
    )
    assert done.returncode == 0, done.stderr
    suffix = ".tif" if large else ".png"
    drawn = tmp_path / "out" / "novelty" / f"{own[0].stem}{suffix}"
    assert drawn.is_file()
    if not large:
        values = np.load(drawn.with_suffix(".npz"))["novelty"]
        assert values.shape == (24, 32)
        assert 0 <= values.min() <= values.mean() < 0.05
        assert np.array_equal(np.array(Image.open(drawn)), np.round(values * 510).clip(0, 255))
