"""`training.refine`: functions that become finer during a training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kanseg
from kanseg.config import Config
from kanseg.inference.checkpoint import read_description
from kanseg.training import compiling
from kanseg.training.run import train
from kanseg.training.run_folder.resume import best_folders
from kanseg.utils.errors import InputError
from tests.training.run_folder.stopped import copy_stopped
from tests.training.test_processes import finish, trained


@pytest.fixture
def splines(config):
    """Three epochs of two steps: 2, 4 and 8 intervals, with an average of the weights."""
    config.model.basis = "bspline"
    config.model.options = {"width": 2, "depth": 2, "grid_size": 2, "norm": "layer"}
    settings = config.training
    settings.epochs, settings.ema, settings.surface = 3, 0.9, False
    settings.panels = settings.log_images = 0
    settings.refine = {2: {"grid_size": 4}, 3: {"grid_size": 8}}
    return config


def weights(folder):
    return load_file(folder / "model.safetensors")


def refined(folder):
    return read_description(folder)["model"].get("refined")


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in one.items()
    )


def test_a_network_that_hardly_trains_keeps_its_scores_and_its_first_best_weights(
    splines, tmp_path, capsys
):
    """The functions are preserved at each step; best is of epoch 1, and loads as it was then."""
    splines.training.lr = 1e-12
    results = train(splines)
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scores = [line["val"]["foreground_iou"] for line in lines if "val" in line]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-4)
    assert "epoch 3: grid_size 8 in" in capsys.readouterr().out
    assert results["best_epoch"] == 1
    assert refined(run / "best") is None
    assert refined(run / "last") == {"grid_size": 8}
    best, last = (kanseg.load(run / name).model.eval() for name in ("best", "last"))
    assert results["parameters"] == sum(each.numel() for each in best.parameters())
    assert sum(each.numel() for each in last.parameters()) > results["parameters"]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(last(x), best(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("stop", "lost"),
    [(5, True), *(pytest.param(step, False, marks=pytest.mark.slow) for step in (1, 2, 3, 4))],
)
def test_a_run_that_was_stopped_ends_bit_equal(splines, tmp_path, stop, lost):
    """Stopped in every stage and between two of them; best weights of an earlier stage that were
    lost are built again from the checkpoint of their epoch.
    """
    splines.training.save_every, splines.training.keep = 1, 99
    train(splines)
    whole, stopped = tmp_path / "run", tmp_path / "stopped"
    copy_stopped(whole, stopped, stop)
    if lost:
        (stopped / "best").unlink()
        for folder in best_folders(stopped):
            shutil.rmtree(folder)
    train(replace(splines, run_dir=str(stopped)), resume=True)
    for name in ("last", "best"):
        assert same(weights(whole / name), weights(stopped / name)), name
        assert refined(whole / name) == refined(stopped / name)
    assert (whole / "log.jsonl").read_bytes() == (stopped / "log.jsonl").read_bytes()


@pytest.mark.slow
def test_a_compiled_run_is_refined(splines, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    train(splines)
    plain = weights(tmp_path / "run" / "last")
    splines.training.compile = True
    train(splines, overwrite=True)
    for name, value in weights(tmp_path / "run" / "last").items():
        torch.testing.assert_close(value, plain[name], atol=1e-3, rtol=1e-2)


@pytest.mark.slow
def test_grids_that_have_moved_are_refined_and_resumed(splines, tmp_path):
    splines.training.save_every, splines.training.keep = 1, 99
    splines.training.update_grid_epochs = [1, 2]
    train(splines)
    copy_stopped(tmp_path / "run", tmp_path / "stopped", 3)
    train(replace(splines, run_dir=str(tmp_path / "stopped")), resume=True)
    assert same(*(weights(tmp_path / name / "last") for name in ("run", "stopped")))


@pytest.mark.slow
def test_two_processes_refine_and_one_resumes(splines, tmp_path):
    code, out, error = finish(trained(splines))
    assert code == 0, error[-2000:]
    assert out.count("epoch 2: grid_size 4 in") == 1
    run = tmp_path / "run"
    assert refined(run / "last") == {"grid_size": 8}
    more = Config.from_yaml((run / "config.yaml").read_text())
    more = replace(more, training=replace(more.training, epochs=4))
    assert train(more, resume=True)["epochs"] == 4


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({1: {"grid_size": 4}}, "epoch 1: must be from 2"),
        ({4: {"grid_size": 4}}, "epoch 4: must be from 2"),
        ({2: {"grid_size": 5}}, "epoch 2: .*multiple of the current 2, got 5"),
        ({2: {"grid_size": 4}, 3: {"grid_size": 6}}, "epoch 3: .*multiple of the current 4, got 6"),
        ({2: {"grid_size": 1}}, "no layer .* fewer than 1 intervals"),
        ({2: {"degree": 4}}, "no layer .* lower degree than 4"),
        ({2: {"gird_size": 4}}, "did you mean 'grid_size'"),
        ({2: {}}, "grid_size or degree"),
    ],
)
def test_steps_that_the_network_cannot_take_are_refused_before_anything_is_written(
    splines, schedule, message
):
    splines.training.refine = schedule
    with pytest.raises(InputError, match=message):
        train(splines)
    assert not Path(splines.run_dir).exists()


def test_the_batch_size_of_functions_that_become_finer_cannot_be_found(splines):
    splines.training.find_batch_size = True
    with pytest.raises(InputError, match="find_batch_size"):
        train(splines)


def test_steps_that_the_network_of_start_from_has_behind_it_are_refused(splines, tmp_path):
    train(splines)
    start = replace(splines.model, start_from=str(tmp_path / "run" / "last"))
    again = replace(splines, model=start, run_dir=str(tmp_path / "again"))
    with pytest.raises(InputError, match="epoch 2: no layer .* fewer than 4 intervals"):
        train(again)
    assert not (tmp_path / "again").exists()
