"""Runs that are killed, at any file operation or moment, and resumed: they end as if nothing had
happened.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import make_folder
from kanseg.config import (
    ClassificationConfig,
    ClassificationData,
    ClassificationTraining,
    Config,
    DataConfig,
    ModelConfig,
    TrainingConfig,
)
from kanseg.data import LabelSpec, Preprocess
from kanseg.inference.checkpoint import find_fault, save_checkpoint
from kanseg.inference.description import describe
from kanseg.training.run_folder.resume import find_checkpoint
from kanseg.utils.io import atomic_write_text, replace_link
from tests.training.run_folder.killing import Operations

DRIVER = Path(__file__).with_name("killing.py")
SMALL = {"batch_size": 2, "log_every": 1, "report": False, "tensorboard": False, "surface": False}
# Three steps an epoch: with save_every 1 and 3 the end of an epoch is saved over its last step.
SETTINGS = {
    "keep one": {"epochs": 2, "save_every": 1, "keep": 1},
    "keep one, same step": {"epochs": 2, "save_every": 3, "keep": 1, "ema": 0.5},
    "average": {"epochs": 2, "save_every": 2, "keep": 2, "ema": 0.9, "accumulate": 2},
    "early end": {
        "epochs": 5,
        "save_every": 3,
        "keep": 3,
        "patience": 1,
        "lr": 1e-9,
        "schedule": "plateau",
        "schedule_options": {"patience": 0},
    },
}


@pytest.fixture
def small(tmp_path):
    """name -> a segmentation experiment of three steps an epoch."""
    root = make_folder(tmp_path / "small", count=9, size=(16, 16), scale=255)
    splits = {"train": range(6), "val": range(6, 8), "test": range(8, 9)}
    for split, numbers in splits.items():
        (root / f"{split}.txt").write_text("".join(f"p{i:02d}\n" for i in numbers))

    def experiment(name):
        workers = 2 if name == "average" else 0
        return Config(
            data=DataConfig(root=str(root), workers=workers, augment=["HorizontalFlip"]),
            model=ModelConfig("unet", "gram", options={"width": 4, "depth": 2, "dropout": 0.2}),
            training=TrainingConfig(**(SMALL | SETTINGS[name])),
        )

    return experiment


@pytest.fixture
def classifier(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (18, 8, 8)).astype(np.uint8), np.arange(18) % 3
    arrays = {"x_train": x[:12], "y_train": y[:12], "x_test": x[12:], "y_test": y[12:]}
    np.savez(tmp_path / "set.npz", **arrays)
    settings = {"epochs": 2, "save_every": 1, "keep": 1, "ema": 0.9, "mixup": 0.4}
    small = {key: value for key, value in SMALL.items() if key != "surface"}
    return ClassificationConfig(
        data=ClassificationData(
            root=str(tmp_path / "set.npz"), channels=1, workers=0, val_share=0.25
        ),
        model=ModelConfig("simple_kan_4", "gram", stem=None, options={"width": 4}),
        training=ClassificationTraining(**(small | {"batch_size": 4} | settings)),
    )


def killed(config, folder, *, operations, moments, seed):
    """What the driver reports of runs that it killed."""
    atomic_write_text(folder / "settings.yaml", config.to_yaml())
    words = [folder / "settings.yaml", folder / "runs", "--seed", seed]
    words += ["--operations", operations, "--moments", moments]
    if isinstance(config, ClassificationConfig):
        words.append("--classification")
    done = subprocess.run(
        [sys.executable, DRIVER, *map(str, words)], capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return json.loads(done.stdout)


def killed_at_every_operation(run, write):
    """Call `write` in forks that are killed before their first, second, ... operation on the run
    folder; yields after each kill.
    """
    for at in range(1, 1000):
        child = os.fork()
        if not child:
            Operations(run, at)
            with contextlib.suppress(BaseException):
                write()
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return
        yield at


def write_step(run, batch, step=3):
    """A checkpoint of a step, with a state that tells the batch."""
    description = describe(Config(), LabelSpec("binary", ("a", "b")), Preprocess())
    folder = run / "checkpoints" / f"step_{step:08d}"
    extra = {"state": {"step": step, "batch": batch}, "tensors": {"x": torch.ones(2)}}
    return save_checkpoint(folder, nn.Linear(2, 3), description, Config(), **extra)


@pytest.mark.slow
def test_the_only_checkpoint_is_replaced_by_another_of_the_same_step(tmp_path):
    """At every kill one of the two is complete, and a resumed run finds it under its name."""
    run, kills, batches = tmp_path / "run", 0, set()
    write_step(run, 0)
    for _ in killed_at_every_operation(run, lambda: write_step(run, 1)):
        kills += 1
        found = find_checkpoint(run, Config(), resume=True, overwrite=False, log=lambda _: None)
        assert found.folder == run / "checkpoints" / "step_00000003"
        assert find_fault(found.folder) is None
        batches.add(found.state["batch"])
        shutil.rmtree(run)
        write_step(run, 0)
    assert kills > 15
    assert batches == {0, 1}


def test_a_folder_in_the_place_of_a_link_is_replaced_whole_or_not_at_all(tmp_path):
    """As in a run that was copied without its links."""
    run = tmp_path / "run"

    def copied():
        shutil.rmtree(run, ignore_errors=True)
        write_step(run, 0, step=1)
        shutil.copytree(write_step(run, 1, step=2).with_name("step_00000001"), run / "last")

    copied()
    target = run / "checkpoints" / "step_00000002"
    places = []
    for _ in killed_at_every_operation(run, lambda: replace_link(run / "last", target)):
        places += [path for path in run.glob("*last*") if find_fault(path) is None]
        assert places
        copied()
    assert find_fault(run / "last") is None
    assert (run / "last").resolve() == target


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_killed_runs_end_bit_equal(small, tmp_path, name):
    result = killed(small(name), tmp_path, operations=12, moments=5, seed=len(name))
    assert result["faults"] == []
    assert result["equal"] == result["runs"] == 17


@pytest.mark.slow
def test_killed_classifications_end_bit_equal(classifier, tmp_path):
    result = killed(classifier, tmp_path, operations=12, moments=5, seed=0)
    assert result["faults"] == []
    assert result["equal"] == result["runs"] == 17
