"""What one network has learned, another begins with."""

import shutil

import pytest
import torch

import kanseg
from kanseg.config import Config
from kanseg.training.run import train
from kanseg.utils.errors import InputError

SMALL = {"width": 3, "depth": 2}


@pytest.fixture
def image():
    return torch.randn(2, 3, 21, 18)


def trained(model):
    """With weights and running means as no new network has them."""
    model.train()
    for _ in range(2):
        model(torch.randn(4, model.encoder.in_channels, 16, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def features(model, x):
    return getattr(model, "encoder", model).eval()(x)


def assert_equal(a, b, x):
    for mine, theirs in zip(features(a, x), features(b, x), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "build",
    [
        lambda path: kanseg.create_model("ukanet_18", encoder_weights=path, **SMALL),
        lambda path: kanseg.create_model(
            "unet", encoder="ukanet_18", encoder_weights=path, encoder_options=SMALL
        ),
        lambda path: kanseg.create_encoder("ukanet_18", weights=path, **SMALL),
        lambda path: kanseg.create_model(
            "ukanet_18", features_only=True, encoder_weights=path, **SMALL
        ),
    ],
    ids=["its own", "under another decoder", "alone", "features"],
)
def test_a_classifiers_encoder_goes_into_segmentation_networks(tmp_path, image, build):
    classifier = trained(kanseg.create_classifier("ukanet_18", classes=5, **SMALL))
    classifier.save_pretrained(tmp_path)
    assert_equal(build(tmp_path), classifier, image)
    assert_equal(build(str(tmp_path)), classifier, image)


@pytest.mark.parametrize("create", [kanseg.create_classifier, kanseg.create_encoder])
def test_a_segmentation_networks_encoder_goes_into_classifiers(tmp_path, image, create):
    network = trained(kanseg.create_model("unet", basis="chebyshev", **SMALL))
    network.save_pretrained(tmp_path)
    option = "weights" if create is kanseg.create_encoder else "encoder_weights"
    assert_equal(create("unet", basis="chebyshev", **SMALL, **{option: tmp_path}), network, image)


def test_classifiers_by_create_model_take_them_too(tmp_path, image):
    first = trained(kanseg.create_model("simple_kan_4", classes=10, width=3))
    first.save_pretrained(tmp_path)
    assert_equal(
        kanseg.create_model("simple_kan_4", classes=4, width=3, encoder_weights=tmp_path),
        first,
        image,
    )


def test_another_number_of_channels_is_adapted(tmp_path):
    color = trained(kanseg.create_classifier("ukanet_18", **SMALL))
    color.save_pretrained(tmp_path)
    gray = kanseg.create_model("ukanet_18", in_channels=1, encoder_weights=tmp_path, **SMALL)
    x = torch.randn(2, 1, 20, 20)
    for mine, theirs in zip(
        features(gray, x), features(color, x.expand(-1, 3, -1, -1)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_stored_network_needs_the_first_folder_no_more(tmp_path, image):
    trained(kanseg.create_classifier("unet", **SMALL)).save_pretrained(tmp_path / "first")
    model = kanseg.create_model("unet", encoder_weights=tmp_path / "first", **SMALL)
    model.save_pretrained(tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    assert_equal(kanseg.from_pretrained(tmp_path / "second"), model, image)


def test_a_run_begins_with_the_weights_and_its_checkpoint_stands_alone(tmp_path, config):
    first = trained(kanseg.create_classifier("unet", **config.model.options))
    first.save_pretrained(tmp_path / "first")
    changed = Config.from_yaml(config.to_yaml())
    changed.model.encoder_weights = str(tmp_path / "first")
    changed.training.epochs, changed.training.lr = 1, 1e-12
    changed.training.freeze_encoder_epochs = 0
    train(changed)
    shutil.rmtree(tmp_path / "first")
    for load in (kanseg.from_pretrained, lambda run: kanseg.load(run).model):
        begun = load(str(config.run_dir)).encoder
        for name, parameter in begun.named_parameters():
            torch.testing.assert_close(
                parameter, first.encoder.get_parameter(name), rtol=0, atol=1e-6
            )
    assert (
        kanseg.from_pretrained(config.run_dir)
        .description["model"]
        .keys()
        .isdisjoint({"encoder_weights"})
    )
    # and a run's folder is such a source itself
    again = kanseg.create_classifier("unet", encoder_weights=config.run_dir, **config.model.options)
    assert_equal(again, kanseg.from_pretrained(config.run_dir), torch.randn(1, 3, 9, 9))


def test_a_matched_width_is_solved_before_weights_are_loaded(tmp_path, image):
    question = {
        "basis": "none",
        "match": "params",
        "like": {"basis": "gram", "width": 4, "share": "edge"},
        "depth": 1,
    }
    first = trained(kanseg.create_model("unet", **question))
    first.save_pretrained(tmp_path)
    assert_equal(kanseg.create_model("unet", encoder_weights=tmp_path, **question), first, image)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "unet",
            {"width": 4, "depth": 2},
            r"stages\.0\.0\.\S+ has \(.*\) there and \(.*\) here",
        ),
        ("unet", {"width": 3, "depth": 3}, r"stages\.3\.\S+ has nothing there"),
        (
            "unet",
            {"width": 3, "depth": 1},
            r"stages\.2\.\S+ has \(.*\) there and nothing here",
        ),
        ("kan", {"image_size": [8, 8]}, "has no encoder"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, name, options, message):
    kanseg.create_classifier("unet", **SMALL).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        kanseg.create_classifier(name, encoder_weights=tmp_path, **options)


def test_a_source_without_an_encoder_is_named(tmp_path):
    kanseg.create_classifier("kan", 3, image_size=[8, 8]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="FlatClassifier"):
        kanseg.create_model("unet", encoder_weights=tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        kanseg.create_model("unet", encoder_weights="nowhere")
