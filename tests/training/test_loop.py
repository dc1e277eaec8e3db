"""What the loop does beside plain steps: averages, early ends, plateaus, several processes. Runs as
such are in test_run.py.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import make_folder
from kanseg.cli.train import train_command
from kanseg.inference.checkpoint import read_weights
from kanseg.training.optim.ema import decay_at
from kanseg.training.run import train
from kanseg.training.run_folder.logging import read_log
from kanseg.training.run_folder.stored_state import read_training
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from tests.training.run_folder.stopped import copy_stopped

TOOL = Path(__file__).parents[2] / "tools" / "train_seg.py"
ALL = {
    "ema": 0.9,
    "lr_factors": {"encoder.*": 0.1},
    "schedule": "plateau",
    "schedule_options": {"patience": 0},
    "warmup": 0.2,
    "patience": 3,
}


def with_settings(config, name, **settings):
    return replace(
        config,
        run_dir=str(Path(config.run_dir).with_name(name)),
        training=replace(config.training, **settings),
    )


@pytest.fixture
def constant(config):
    """A run whose scores stay as they are: its rate is tiny, and no norm collects statistics."""
    config.model.options |= {"norm": "instance"}
    return with_settings(config, "run", lr=1e-9)


def lines(config, key="train"):
    return [entry for entry in read_log(Path(config.run_dir) / "log.jsonl") if key in entry]


def states_of_every_step(config):
    """The weights after each step, from checkpoints."""
    folders = sorted((Path(config.run_dir) / "checkpoints").glob("step_*"))
    return [read_weights(folder) for folder in folders]


def test_best_weights_are_the_average_by_hand(config):
    config = with_settings(config, "run", ema=0.5, epochs=3, save_every=1, keep=99, lr=0.01)
    config.data.val = []  # the last weights are the best
    train(config)
    steps = [
        weights[next(k for k in weights if k.endswith("base_conv.weight"))]
        for weights in states_of_every_step(config)
    ]
    average = steps[0]
    for update, now in enumerate(steps[1:], 1):
        average = decay_at(update, 0.5) * average + (1 - decay_at(update, 0.5)) * now
    best = read_weights(Path(config.run_dir) / "best")
    name = next(k for k in best if k.endswith("base_conv.weight"))
    torch.testing.assert_close(best[name], average)
    assert not torch.equal(best[name], steps[-1])


def test_an_average_does_not_touch_the_training(config):
    plain, averaged = with_settings(config, "plain"), with_settings(config, "averaged", ema=0.99)
    train(plain)
    train(averaged)
    weights = [
        (Path(c.run_dir) / "last" / "model.safetensors").read_bytes() for c in (plain, averaged)
    ]
    assert weights[0] == weights[1]


def test_training_ends_after_as_many_validations_without_an_improvement(constant, capsys):
    config = with_settings(constant, "run", epochs=9, patience=2)
    results = train(config)
    assert [entry["epoch"] for entry in lines(config)] == [1, 2, 3]
    assert [entry.get("stopped_early") for entry in lines(config)] == [None, None, True]
    assert (results["epochs"], results["best_epoch"]) == (3, 1)
    assert "stopped early: no better foreground_iou in 2 validations" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_stopped_early_is_finished_until_it_gets_more_patience(constant, capsys):
    config = with_settings(constant, "run", epochs=9, patience=1)
    train(config)
    train(config, resume=True)
    assert "this run has stopped early, after 2 epochs" in capsys.readouterr().out
    assert len(lines(config)) == 2
    config.training.patience = 3
    assert train(config, resume=True)["epochs"] == 4
    config.training.patience, config.training.epochs = 0, 4
    train(config, resume=True)
    assert "this run is finished, with 4 epochs" in capsys.readouterr().out


def test_a_plateau_lowers_the_rate(constant):
    config = with_settings(
        constant,
        "run",
        epochs=4,
        schedule="plateau",
        schedule_options={"patience": 0, "factor": 0.1},
        warmup=0.0,
    )
    train(config)
    rates = {entry["epoch"]: entry["lr"] for entry in lines(config, "lr")}
    assert list(rates.values()) == pytest.approx(
        [1e-9, 1e-9, 1e-10, 1e-11]
    )  # the first validation is an improvement on nothing


def assert_same(
    one, other, names=("last/model.safetensors", "best/model.safetensors", "log.jsonl")
):
    for name in names:
        assert (Path(one.run_dir) / name).read_bytes() == (
            Path(other.run_dir) / name
        ).read_bytes(), name


def test_everything_together_resumes_bit_equal(config):
    config.model.options |= {"depth": 2, "dropout": 0.2}  # it does not improve in these epochs
    whole = with_settings(config, "whole", **ALL, epochs=6, save_every=1, keep=99)
    train(whole)
    for step in (3, 4):  # in the middle of an epoch, and at its end
        broken = with_settings(whole, f"broken{step}")
        copy_stopped(whole.run_dir, broken.run_dir, step)
        train(broken, resume=True)
        assert_same(whole, broken)
        (state, tensors), (expected, originals) = (
            read_training((Path(c.run_dir) / "last").resolve()) for c in (broken, whole)
        )
        assert state == expected
        assert all(
            torch.equal(value, originals["average"][key])
            for key, value in tensors["average"].items()
        )
    assert (state["epoch"], state["stale"], state["lr_scheduler"]["scale"]) == (
        4,
        3,
        0.125,
    )  # stopped early, halved after each of three validations


def test_a_kill_before_the_last_link_is_made_good(config):
    """Also in a run that has nothing left to train."""
    whole = with_settings(config, "whole", epochs=1, save_every=1, keep=99)
    broken = with_settings(whole, "broken")
    train(whole)
    copy_stopped(whole.run_dir, broken.run_dir, 2)
    assert not (Path(broken.run_dir) / "last").exists()
    train(broken, resume=True)
    assert_same(whole, broken)


@pytest.mark.slow
def test_accumulation_clipping_and_bf16_resume_bit_equal(config):
    config.data.train, config.data.test = ["train", "test"], []
    settings = {
        "schedule": "poly",
        "schedule_options": {"power": 2.0},
        "accumulate": 3,
        "clip": 0.1,
        "precision": "bf16",
        "ema": 0.5,
        "save_every": 1,
        "keep": 99,
    }
    whole, broken = (with_settings(config, name, **settings) for name in ("whole", "broken"))
    train(whole)
    copy_stopped(whole.run_dir, broken.run_dir, 3)
    train(broken, resume=True)
    assert_same(whole, broken)


def test_patience_without_a_val_split_is_refused(config, folder):
    for change in ({"patience": 2}, {"schedule": "plateau"}):
        without = with_settings(config, "run", **change)
        without = replace(without, data=replace(config.data, val=[], train=["train", "val"]))
        with pytest.raises(InputError, match="needs scores on val"):
            train(without)
        assert not Path(without.run_dir).exists()


def in_two_processes(config):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = Path(config.run_dir).with_suffix(".yaml")
    atomic_write_text(path, config.to_yaml())
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(port),
        TOOL,
        "--config",
        path,
    ]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_train_like_one(config, tmp_path):
    """With as many images a step in all, norms of single images and a loss that is a mean over
    equally many pixels, gradients are the same sums.
    """
    root = make_folder(tmp_path / "odd", count=14, scale=255)
    for split, names in {"train": range(8), "val": range(8, 11), "test": range(11, 14)}.items():
        (root / f"{split}.txt").write_text("".join(f"p{i:02d}\n" for i in names))
    config.model.options["norm"] = "layer"
    config.data.root = str(root)
    settings = ALL | {
        "optimizer": "sgd",
        "loss": {"ce": 1.0},
        "lr": 0.02,
        "epochs": 3,
        "patience": 2,
        "find_batch_size": True,
    }
    one = with_settings(config, "one", **settings, batch_size=4)
    two = with_settings(config, "two", **settings, batch_size=2)
    train(one)
    in_two_processes(two)
    for name in ("last", "best"):
        ours, theirs = (load_file(Path(c.run_dir) / name / "model.safetensors") for c in (one, two))
        for key, value in ours.items():
            np.testing.assert_allclose(value.numpy(), theirs[key].numpy(), atol=2e-5, err_msg=key)
    ours, theirs = (lines(c) for c in (one, two))
    assert [e["train"]["loss"] for e in ours] == pytest.approx(
        [e["train"]["loss"] for e in theirs], abs=1e-5
    )
    assert [e["val"]["mean_iou"] for e in ours] == pytest.approx(
        [e["val"]["mean_iou"] for e in theirs], abs=2e-3
    )
    states = [json.loads((Path(c.run_dir) / "last" / "state.json").read_text()) for c in (one, two)]
    assert states[0]["lr_scheduler"] == states[1]["lr_scheduler"]
    assert states[0]["stale"] == states[1]["stale"]


def test_a_training_step_is_at_most_eight_calls_deep(config, tmp_path):
    """From the command to the forward pass of the network, torch's own two calls included."""
    (tmp_path / "settings.yaml").write_text(with_settings(config, "run", epochs=1).to_yaml())
    depths = []

    def measure_depth(module, inputs):
        # "inner" calls hooks; the hook itself stands where the forward pass does without them
        names = [frame.name for frame in traceback.extract_stack() if frame.name != "inner"]
        if module.training and torch.is_grad_enabled():
            depths.append(len(names) - names.index("train_command"))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(measure_depth)
    try:
        words = ["--config", str(tmp_path / "settings.yaml")]
        train_command(words, kind=type(config), description="")
    finally:
        handle.remove()
    assert min(depths) <= 8
