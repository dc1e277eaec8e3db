"""Classifiers of files and arrays. The network tells which channel is the brightest."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import kanseg
from kanseg.config import ClassificationConfig
from kanseg.data import Preprocess
from kanseg.inference import Classifier
from kanseg.inference.checkpoint import save_checkpoint
from kanseg.inference.loading import TrainedNetwork, holds_classifier
from kanseg.utils.errors import InputError
from tests.conftest import write_checkpoint

COLORS = ("red", "green", "blue")


class Brightest(nn.Module):
    """Logits: the means of the channels; the left half counts twice."""

    def __init__(self, scale=4.0, left=0.0):
        super().__init__()
        self.scale, self.left = scale, left

    def forward(self, images):
        half = images[..., : images.shape[-1] // 2].mean(dim=(2, 3))
        return self.scale * (images.mean(dim=(2, 3)) + self.left * half)


def network(model=None, classes=COLORS, **options):
    preprocess = options.pop("preprocess", Preprocess(mean=(0.0,), std=(1.0,)))
    return TrainedNetwork(
        model or Brightest(), preprocess, classes, [], "classification", None, "x", **options
    )


def image(color, size=(8, 10), dtype=np.uint8):
    values = np.zeros((*size, 3), dtype)
    values[:, :, COLORS.index(color)] = np.iinfo(dtype).max
    return values


def test_files_and_arrays_of_any_size_and_depth_are_named(tmp_path):
    classifier = Classifier([network()], device="cpu")
    path = tmp_path / "a.png"
    Image.fromarray(image("green")).save(path)
    arrays = [image("red"), image("blue", (3, 40)), image("green", dtype=np.uint16)]
    found = classifier([path, str(path), *arrays])
    assert [one.name for one in found] == ["green", "green", "red", "blue", "green"]
    expected = torch.softmax(torch.tensor([0.0, 4.0, 0.0]), dim=0)
    assert found[0].probability == pytest.approx(expected[1].item())
    assert list(found[0].probabilities) == list(COLORS)
    assert found[0].top(2)[0] == ("green", found[0].probability)
    one = classifier(path)
    assert (one.name, one.probabilities) == ("green", found[0].probabilities)


def test_probabilities_do_not_depend_on_the_batch_and_sum_to_one():
    images = [image(color, (4 + number % 3, 6)) for number, color in enumerate(COLORS * 4)]
    rows = Classifier([network()], batch_size=5, device="cpu").probabilities(images)
    assert rows.shape == (12, 3)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(12))
    single = Classifier([network()], batch_size=1, device="cpu")
    alone = torch.stack([single.probabilities(each) for each in images])
    torch.testing.assert_close(rows, alone)
    assert single.probabilities([]).shape == (0, 3)


def test_several_networks_and_views_are_averaged():
    half = image("red")
    half[:, :5] = image("blue")[:, :5]
    models = [Brightest(left=1.0), Brightest(scale=1.0)]
    members = [network(model) for model in models]
    parts = [Classifier([member], device="cpu").probabilities(half) for member in members]
    both = Classifier(members, device="cpu").probabilities(half)
    torch.testing.assert_close(both, (parts[0] + parts[1]) / 2)
    mirrored = Classifier([members[0]], device="cpu").probabilities(half[:, ::-1].copy())
    flipped = Classifier([members[0]], flips=2, device="cpu").probabilities(half)
    torch.testing.assert_close(flipped, (parts[0] + mirrored) / 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 4, 3)), "expected .*uint8"),
        (np.zeros((4, 4, 7), np.uint8), "7 channels"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_cannot_be_read_is_named(bad, message):
    with pytest.raises(InputError, match=message):
        Classifier([network()], device="cpu")([image("red"), bad])


def test_a_network_of_one_size_refuses_others_and_rotations_of_what_is_no_square():
    fixed = network(image_size=(4, 6), one_size=True)
    classifier = Classifier([fixed], device="cpu")
    assert classifier(image("blue", (4, 6))).name == "blue"
    with pytest.raises(InputError, match="8x10 pixels .* 4x6"):
        classifier(image("blue"))
    with pytest.raises(InputError, match="flips 8"):
        Classifier([fixed], flips=8, device="cpu")


def test_scores_that_are_not_finite_are_refused():
    broken = Classifier([network(Brightest(scale=float("nan")))], device="cpu")
    with pytest.raises(InputError, match="image 0.*NaN"):
        broken(image("red"))


def test_members_need_the_same_classes():
    with pytest.raises(InputError, match="same classes"):
        Classifier([network(), network(classes=("a", "b", "c"))], device="cpu")


def write_classifier(folder, classes=COLORS, **entries):
    """A checkpoint as a training writes it."""
    torch.manual_seed(0)
    arguments = {"name": "simple_kan_4", "basis": "none", "width": 2, "stem": None}
    arguments |= {"in_channels": 3, "classes": len(classes)}
    model = kanseg.create_model(**arguments)
    description = {
        "kanseg": 1,
        "model": arguments | entries.pop("model", {}),
        "labels": {"task": "classification", "classes": list(classes)},
        "preprocess": asdict(Preprocess(resize=(16, 16))),
    } | entries
    description = {key: value for key, value in description.items() if value is not None}
    return save_checkpoint(folder, model, description, ClassificationConfig())


def test_a_checkpoint_holds_all_that_is_needed(tmp_path):
    folder = write_classifier(tmp_path / "best", image_size=[16, 16])
    classifier = kanseg.load(str(tmp_path), device="cpu")
    pixels = torch.from_numpy(image("red", (16, 16)).transpose(2, 0, 1)[None]) / 255
    network = kanseg.from_pretrained(folder)
    expected = network((pixels - 0.5) / 0.25).softmax(dim=1)[0]
    torch.testing.assert_close(classifier.probabilities(image("red", (16, 16))), expected)
    assert classifier.classes == COLORS
    assert holds_classifier(tmp_path)
    twice = kanseg.load([str(tmp_path), str(folder)], flips=2, device="cpu")
    assert len(twice.provenance()) == 2
    with pytest.raises(InputError, match="tile, scales.*classifier"):
        kanseg.load(str(folder), tile=(8, 8), scales=(1.0, 2.0))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"preprocess": None}, "'preprocess' is missing"),
        ({"labels": None}, "'labels' is missing"),
        ({"image_size": "big"}, "image_size"),
        ({"labels": {"task": "classification", "classes": ["a", "a", "b"]}}, "its own name"),
    ],
)
def test_a_checkpoint_without_an_entry_says_which(tmp_path, entries, message):
    folder = write_classifier(tmp_path / "best", **entries)
    with pytest.raises(InputError, match=message):
        kanseg.load(str(folder))


def test_classifiers_and_segmentation_networks_are_not_averaged(tmp_path):
    folder = write_classifier(tmp_path / "best")
    arguments = {
        "name": "unet",
        "basis": "none",
        "width": 2,
        "depth": 1,
        "in_channels": 3,
        "classes": 1,
    }
    other, _ = write_checkpoint(tmp_path, 1)
    assert not holds_classifier(other)
    model = kanseg.create_model(**arguments)
    labels = {"task": "binary", "classes": ["a", "b"], "palette": [[0, 0, 0], [9, 9, 9]]}
    description = {"kanseg": 1, "model": arguments, "labels": labels}
    description["preprocess"] = asdict(Preprocess())
    masks = save_checkpoint(tmp_path / "masks", model, description, ClassificationConfig())
    with pytest.raises(InputError, match="some of these checkpoints are classifiers"):
        kanseg.load([str(folder), str(masks)])
