"""`training.log_health`."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from kanseg.inference.checkpoint import read_weights
from kanseg.layers import KANActivation, KANConv2d
from kanseg.training.diagnose import HealthLog
from kanseg.training.run import train
from kanseg.training.run_folder.logging import read_log
from tests.training.run_folder.stopped import copy_stopped


def epochs(config):
    return [entry for entry in read_log(Path(config.run_dir) / "log.jsonl") if "train" in entry]


def with_run(config, name, **settings):
    run_dir = str(Path(config.run_dir).with_name(name))
    return replace(config, run_dir=run_dir, training=replace(config.training, **settings))


def test_each_layer_off_its_grid_is_warned_about_once_with_what_to_do():
    network = nn.Sequential(
        KANConv2d(3, 4, 3, basis="bspline", grid_range=(-0.1, 0.1), norm=None),
        KANConv2d(4, 4, 3, basis="bspline", grid_range=(-9.0, 9.0), norm=None),
    )
    lines = []
    health = HealthLog([torch.randn(1, 3, 16, 16)], lines.append)
    first = health.measure(network, 1)
    assert health.measure(network, 2) == first
    assert first["0"]["off_grid"] > 0.9
    assert first["1"]["off_grid"] == 0
    assert "saturated" not in first["0"]
    (line,) = lines
    assert "epoch 1: 0 9" in line
    assert "update_grid_epochs" in line


def test_inputs_that_saturate_the_domain_are_warned_about():
    lines = []
    health = HealthLog([torch.randn(1, 3, 8, 8) * 100], lines.append)
    numbers = health.measure(nn.Sequential(KANActivation(3, basis="gram")), 1)["0"]
    assert numbers["saturated"] > 0.9
    assert "off_grid" not in numbers
    (line,) = lines
    assert "domain" in line


def test_a_run_logs_it_and_trains_as_without(config, tmp_path):
    config.data.val = []
    config.model.options = {"width": 4, "depth": 1, "dropout": 0.2}
    measured = with_run(config, "on", log_health=True, panels=0, save_every=1, keep=99)
    train(measured)
    plain = with_run(measured, "off", log_health=False)
    train(plain)
    ours, theirs = (read_weights(tmp_path / name / "best") for name in ("on", "off"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    for entry, other in zip(epochs(measured), epochs(plain), strict=True):
        assert {key: entry[key] for key in other} == other
        assert "health" not in other
        for numbers in entry["health"].values():
            assert all(math.isfinite(value) for value in numbers.values())

    stopped = with_run(measured, "stopped")
    copy_stopped(tmp_path / "on", stopped.run_dir, 3)
    train(stopped, resume=True)
    assert epochs(stopped) == epochs(measured)
