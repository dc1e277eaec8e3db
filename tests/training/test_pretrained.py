"""Training with a pretrained encoder: frozen at first, then at a lower rate, with its
normalization.
"""

import json
import os
import socket
from dataclasses import replace

import pytest
import torch
from torch import nn

import kanseg
from kanseg.config import ClassificationConfig, Config
from kanseg.data import Preprocess
from kanseg.encoders import EncoderWeights, ImageStatistics
from kanseg.inference.checkpoint import read_weights
from kanseg.inference.description import model_arguments
from kanseg.training.optim.optimizers import parameter_groups
from kanseg.training.pretrained import (
    FrozenEncoder,
    check_encoder,
    describe_encoder,
    encoder_statistics,
    find_pretrained,
    freeze_epochs,
    pretrained_part,
    with_encoder_lr,
)
from kanseg.training.processes import make_accelerator
from kanseg.training.run import train
from kanseg.utils.errors import InputError

PART = "encoder.body."


@pytest.fixture
def weights(tmp_path):
    """Random weights of a small encoder as a file of its own library."""
    import timm

    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def pretrained(config, weights):
    """A run of two epochs with that encoder, frozen in the first."""
    model = replace(config.model, basis="none", encoder="tu-test_resnet")
    model.encoder_weights = str(weights)
    model.options = {"encoder_depth": 2, "num_convs": 1}
    training = replace(config.training, freeze_encoder_epochs=1, report=False, surface=False)
    return replace(config, model=model, training=training)


def of_encoder(run, number):
    """Weights of the encoder in the checkpoint of an epoch of two steps."""
    stored = read_weights(run / "checkpoints" / f"step_{2 * number:08d}")
    return {name: value for name, value in stored.items() if name.startswith(PART)}


def test_a_run_begins_with_the_weights_freezes_resumes_and_stands_alone(
    pretrained, weights, tmp_path, capsys
):
    class Stop(Exception):
        pass

    def stop(entry):
        raise Stop

    run = tmp_path / "run"
    with pytest.raises(Stop):
        train(pretrained, on_epoch_end=stop)
    out = capsys.readouterr().out
    assert f"the weights of {weights}" in out
    assert "encoder.body is frozen until the end of epoch 1" in out
    assert "encoder.body.* has 0.1 times the learning rate" in out
    assert "data.mean [0.5, 0.5, 0.5]" in out
    theirs = torch.load(weights)
    first = of_encoder(run, 1)
    for name, value in first.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, theirs[name.removeprefix(PART)]), name

    weights.unlink()  # the checkpoint has what it needs
    train(pretrained, resume=True)
    out = capsys.readouterr().out
    assert "epoch 2: the encoder is trained from here on" in out
    assert "the weights of" not in out
    second = of_encoder(run, 2)
    assert all(not torch.equal(second[name], first[name]) for name in first if "weight" in name)
    assert not torch.equal(second[PART + "bn1.running_mean"], first[PART + "bn1.running_mean"])

    description = json.loads((run / "best" / "model.json").read_text())
    assert description["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert kanseg.load(run).model.encoder.out_channels[1:] == [32, 32]


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(pretrained, tmp_path):
    pretrained.training.epochs, pretrained.training.ema = 3, 0.9
    whole = replace(pretrained, run_dir=str(tmp_path / "whole"))
    train(whole)

    class Stop(Exception):
        pass

    for _ in range(2):  # in the frozen epoch, and in the first one after it

        def stop(entry):
            raise Stop

        resume = (tmp_path / "run").exists()
        with pytest.raises(Stop):
            train(pretrained, resume=resume, on_epoch_end=stop)
    train(pretrained, resume=True)
    for name, value in of_encoder(tmp_path / "whole", 3).items():
        assert torch.equal(of_encoder(tmp_path / "run", 3)[name], value), name


def test_the_lower_rate_is_that_of_the_pretrained_part_only(pretrained):
    model = kanseg.create_model("unet", encoder="tu-test_vit", encoder_depth=2, basis="none")
    settings = with_encoder_lr(pretrained, model)
    rates = {}
    for group in parameter_groups(model, settings):
        for parameter in group["params"]:
            rates[parameter] = group.get("lr", settings.lr)
    for name, parameter in model.named_parameters():  # encoder.pyramid has no pretrained weights
        factor = 0.1 if name.startswith(PART) else 1.0
        assert rates[parameter] == pytest.approx(factor * settings.lr), name


def test_defaults_are_those_of_pretrained_encoders_only(pretrained):
    model = kanseg.create_model("unet", width=2, depth=1)
    assert with_encoder_lr(pretrained, model).lr_factors == {"encoder.*": 0.1}
    pretrained.training.freeze_encoder_epochs = None
    assert freeze_epochs(pretrained) == 2
    given = replace(pretrained, training=replace(pretrained.training, lr_factors={"*": 0.5}))
    assert with_encoder_lr(given, model).lr_factors == {"*": 0.5}
    lbfgs = replace(pretrained, training=replace(pretrained.training, optimizer="lbfgs"))
    assert with_encoder_lr(lbfgs, model).lr_factors == {}
    pretrained.model.encoder_weights = None
    assert with_encoder_lr(pretrained, model).lr_factors == {}
    assert freeze_epochs(pretrained) == 0


def test_a_frozen_encoder_has_no_gradient_and_its_norms_do_not_move():
    part = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    part[2].requires_grad_(False)  # such as position embeddings that are never trained
    model = nn.Sequential(part, nn.Conv2d(2, 1, 1))
    frozen = FrozenEncoder(part, epochs=2)
    for epoch, trains in [(0, False), (1, False), (2, True), (3, True)]:
        model.train()
        frozen.set_epoch(epoch)
        model.zero_grad()
        before = part[1].running_mean.clone()
        model(torch.randn(4, 1, 3, 3) + 5).sum().backward()
        assert (part[0].weight.grad is not None) == trains
        assert torch.equal(part[1].running_mean, before) != trains
        assert part[2].weight.grad is None
        assert model[1].weight.grad is not None


def _epochs(model, batches, optimizer):
    """Three epochs of one step, the first without the encoder; the encoder after each."""
    module = getattr(model, "module", model)
    frozen, seen = FrozenEncoder(module[0], epochs=1), []
    for epoch, x in enumerate(batches):
        model.train()
        frozen.set_epoch(epoch)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        seen.append(module[0].weight.detach().clone())
    return seen


def _small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def _batches():
    return torch.randn(3, 2, 5, 3, generator=torch.Generator().manual_seed(1))


def _two_processes(rank, port, folder):
    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in places.items()}, MASTER_ADDR="127.0.0.1")
    accelerator = make_accelerator("no", freezes=True)
    model = _small()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    torch.save(_epochs(model, _batches()[:, rank], optimizer), folder / f"{rank}.pt")
    accelerator.end_training()


@pytest.mark.slow
def test_two_processes_train_a_frozen_encoder_as_one_does(tmp_path):
    """Its gradients are averaged in the first epoch in which it has some, and after it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_two_processes, (port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    model = _small()
    begun = model[0].weight.detach().clone()
    alone = _epochs(model, _batches().flatten(1, 2), torch.optim.SGD(model.parameters(), lr=0.5))
    for epoch in range(3):
        assert torch.equal(first[epoch], second[epoch])
        torch.testing.assert_close(first[epoch], alone[epoch])
        assert torch.equal(first[epoch], begun) == (epoch == 0)


@pytest.mark.parametrize(
    ("channels", "changes", "mean", "said"),
    [
        (3, {}, (0.2, 0.4, 0.6), "those of the pretrained encoder"),
        (1, {}, (0.4,), "those of the pretrained encoder"),
        (4, {}, None, "4 channels"),
        (3, {"gamma": 0.5}, None, "data.gamma is 0.5"),
        (3, {"floats": True}, None, "floats"),
    ],
)
def test_images_are_normalized_as_the_encoder_expects(tmp_path, channels, changes, mean, said):
    statistics = ImageStatistics((0.2, 0.4, 0.6), (0.3, 0.3, 0.3))
    found = EncoderWeights(tmp_path, "file", statistics)
    lines = []
    result = encoder_statistics(found, Preprocess(channels, **changes), lines.append)
    if mean is None:
        assert result is None
    else:
        assert result == (pytest.approx(mean), pytest.approx((0.3,) * channels))
    assert said in lines[0]
    assert encoder_statistics(None, Preprocess(channels), lines.append) is None


def test_a_trained_network_brings_the_normalization_of_its_images(tmp_path):
    model = kanseg.create_model("unet", width=2, depth=1)
    model.save_pretrained(tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    settings = replace(Config().model, encoder_weights=str(tmp_path))
    assert find_pretrained(settings).statistics is None
    description["preprocess"] = {"mean": [0.1] * 3, "std": [0.2] * 3, "gamma": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(description))
    assert find_pretrained(settings).statistics == ImageStatistics((0.1,) * 3, (0.2,) * 3, 0.5)
    settings.encoder_weights = "imagenet"
    with pytest.raises(InputError, match=r"model\.encoder_weights.*imagenet.*model\.encoder"):
        find_pretrained(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "test_resnt"}, "did you mean 'test_resnet'"),
        (
            {"encoder": "test_resnet", "encoder_weights": "absent.pth"},
            r"^model\.encoder_weights: no file",
        ),
        (
            {"encoder": "test_resnet", "name": "u2kanet_small", "options": {}},
            "ukanet_18, ukanet_34, ukanet_50, unet",
        ),
        ({"encoder": "test_resnet", "options": {"encoder": "resnet18"}}, "options holds encoder"),
        ({"encoder": "test_resnet", "options": {"width": 3}}, "encoder_options"),
    ],
)
def test_settings_are_refused_before_anything_is_written(config, tmp_path, settings, message):
    config.model = replace(config.model, **({"options": {}} | settings))
    with pytest.raises(InputError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


def test_networks_without_an_encoder_freeze_nothing(config):
    config.training.freeze_encoder_epochs = 1
    flat = kanseg.create_model("kan", 3, 2, image_size=[8, 8])
    with pytest.raises(InputError, match="need a network with an encoder"):
        check_encoder(config, flat)
    config.training.freeze_encoder_epochs = -1
    with pytest.raises(InputError, match="at least 0"):
        check_encoder(config, kanseg.create_model("unet", width=2, depth=1))
    classifier = ClassificationConfig()
    classifier.model.encoder = "resnet18"
    with pytest.raises(InputError, match="model.name"):
        train(classifier)


def test_the_pretrained_part_is_named():
    ours = kanseg.create_model("unet", width=2, depth=1)
    assert pretrained_part(ours) == ("encoder", ours.encoder)
    theirs = kanseg.create_model("unet", encoder="test_resnet", encoder_depth=1, basis="none")
    assert pretrained_part(theirs) == ("encoder.body", theirs.encoder.body)


def test_the_options_of_earlier_versions_mean_the_same_network(pretrained):
    arguments = model_arguments(pretrained.model, in_channels=3, classes=2)
    earlier = replace(
        pretrained.model,
        encoder=None,
        encoder_weights=None,
        options={
            **pretrained.model.options,
            "encoder": pretrained.model.encoder,
            "encoder_weights": pretrained.model.encoder_weights,
        },
    )
    with pytest.warns(DeprecationWarning, match=r"set model\.encoder"):
        assert model_arguments(earlier, in_channels=3, classes=2) == arguments


@pytest.mark.parametrize(("epochs", "warned"), [(2, True), (3, False), (50, False)])
def test_an_encoder_that_is_hardly_trained_is_said(config, epochs, warned):
    """With the default, two frozen epochs."""
    config.model.encoder_weights = "imagenet"
    config.training.epochs = epochs
    model = kanseg.create_model("unet", width=2, depth=1)
    lines = describe_encoder(config, model)
    assert any(line.startswith("warning: the encoder is trained in 0 of 2") for line in lines) == (
        warned
    )
