"""`training.update_grid_epochs`."""

import pytest
import torch
from safetensors.torch import load_file

from kanseg.training import compiling
from kanseg.training.run import train
from kanseg.utils.errors import InputError
from tests.training.run_folder.stopped import copy_stopped


@pytest.fixture
def splines(config):
    """Four epochs of a small network of B-splines, with an average of its weights."""
    config.model.basis = "bspline"
    settings = config.training
    settings.epochs, settings.ema, settings.log_images = 4, 0.9, 0
    settings.update_grid_epochs = [1, 3]
    return config


def weights(run):
    (file,) = (run / "last").glob("*.safetensors")
    return load_file(file)


def equally_spaced(values):
    steps = values.diff(dim=1)
    return torch.allclose(steps, steps[:, :1].expand_as(steps), rtol=1e-4)


def knots(state):
    return {name: value for name, value in state.items() if name.endswith("knots")}


def test_grids_move_in_the_epochs_asked_for(splines, tmp_path, capsys):
    train(splines)
    assert [
        line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "grids moved" in line
    ] == ["epoch 1", "epoch 3"]
    moved = knots(weights(tmp_path / "run"))
    assert moved
    assert not any(equally_spaced(value) for value in moved.values())


def test_by_default_no_grid_moves(splines, tmp_path):
    splines.training.update_grid_epochs = []
    train(splines)
    assert all(equally_spaced(value) for value in knots(weights(tmp_path / "run")).values())


@pytest.mark.parametrize(
    "stop", [5, *(pytest.param(epoch, marks=pytest.mark.slow) for epoch in (1, 4, 6))]
)
def test_a_run_that_was_stopped_ends_bit_equal(splines, tmp_path, stop):
    """Stopped before, in and behind the epoch in which grids move."""
    splines.training.save_every, splines.training.keep = 1, 99
    train(splines)
    whole = weights(tmp_path / "run")
    splines.run_dir = str(tmp_path / "stopped")
    copy_stopped(tmp_path / "run", splines.run_dir, stop)
    train(splines, resume=True)
    again = weights(tmp_path / "stopped")
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.slow
def test_a_compiled_run_follows_its_grids(splines, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    train(splines)
    plain = weights(tmp_path / "run")
    splines.training.compile = True
    train(splines, overwrite=True)
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, plain[name], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("epochs", "basis", "message"),
    [
        ([0], "bspline", "epochs from 1"),
        ([5], "bspline", "epochs from 1"),
        ([2, 2], "bspline", "different epochs"),
        ([2], "gram", "no layer of this network has a grid"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    splines, tmp_path, epochs, basis, message
):
    splines.training.update_grid_epochs, splines.model.basis = epochs, basis
    if basis == "gram":
        splines.model.stem = None
    with pytest.raises(InputError, match=message):
        train(splines)
    assert not (tmp_path / "run").exists()
