"""Runs of two processes: how they begin, end and go on together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import kanseg.utils.environment
from conftest import make_folder
from kanseg.config import (
    ClassificationConfig,
    ClassificationData,
    ClassificationTraining,
    ModelConfig,
)
from kanseg.inference.checkpoint import find_fault
from kanseg.training.processes import any_process, make_accelerator
from kanseg.training.run import train
from kanseg.training.run_folder.resume import step_folders
from kanseg.utils.environment import launched_processes, process_rank
from kanseg.utils.io import atomic_write_text

TOOLS = Path(__file__).parents[2] / "tools"


def environment():
    """As a user has it who types the README's command."""
    names = ("ACCELERATE_USE_CPU", "OMP_NUM_THREADS")
    kept = {key: value for key, value in os.environ.items() if key not in names}
    return kept | ({"ACCELERATE_USE_CPU": "true"} if torch.cuda.is_available() else {})


def two_processes(tool, *words):
    """`torchrun --nproc_per_node 2 tools/TOOL.py ...`, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    return subprocess.Popen(
        [*launcher, "--master_port", str(port), TOOLS / f"{tool}.py", *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    try:
        out, error = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, out, error


def trained(config, *words, tool="train_seg"):
    path = Path(config.run_dir).with_suffix(".yaml")
    atomic_write_text(path, config.to_yaml())
    return two_processes(tool, "--config", path, *words)


def changed(config, name, **settings):
    return replace(
        config,
        run_dir=str(Path(config.run_dir).with_name(name)),
        training=replace(config.training, **settings),
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({}, (1, 0)),
        ({"WORLD_SIZE": "2", "RANK": "1"}, (2, 1)),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, (4, 3)),
        ({"WORLD_SIZE": ""}, (1, 0)),
    ],
)
def test_the_number_of_processes_is_read_from_the_launcher(monkeypatch, names, expected):
    for name in (*kanseg.utils.environment.WORLD_SIZES, *kanseg.utils.environment.RANKS):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert (launched_processes(), process_rank()) == expected


def test_one_process_decides_alone():
    accelerator = make_accelerator("no")
    assert accelerator.num_processes == 1
    assert any_process(True, accelerator)
    assert not any_process(False, accelerator)


@pytest.mark.slow
def test_the_readmes_command_measures_as_one_process_does(config, tmp_path):
    """One run folder, one table, and of the same weights the same scores."""
    more = replace(config.data, root=str(make_folder(tmp_path / "odd", count=15, scale=255)))
    config = changed(replace(config, data=more), "two", epochs=1)
    code, out, error = finish(trained(config))
    assert code == 0, error[-2000:]
    assert out.count("test, weights of epoch 1") == 1
    words = ["--checkpoint", config.run_dir, "--split", "test", "--json"]
    code, out, error = finish(two_processes("evaluate", *words, tmp_path / "two.json"))
    assert code == 0, error[-2000:]
    assert out.count("calibration error") == 1
    subprocess.run(
        [sys.executable, TOOLS / "evaluate.py", *words, tmp_path / "one.json"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    two, one = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("two", "one"))
    measured = json.loads((Path(config.run_dir) / "metrics.json").read_text())["test"]
    assert two == one
    assert measured["images"] == one["images"] == 5
    assert measured["mean_iou"] == pytest.approx(one["mean_iou"], abs=1e-9)


@pytest.mark.slow
def test_classifications_of_two_processes_measure_as_one_process_does(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (25, 8, 8)).astype(np.uint8), np.arange(25) % 3
    arrays = {"x_train": x[:18], "y_train": y[:18], "x_test": x[18:], "y_test": y[18:]}
    np.savez(tmp_path / "set.npz", **arrays)
    config = ClassificationConfig(
        run_dir=str(tmp_path / "two"),
        data=ClassificationData(
            root=str(tmp_path / "set.npz"), channels=1, workers=0, val_share=0.25
        ),
        model=ModelConfig("simple_kan_4", "gram", stem=None, options={"width": 4}),
        training=ClassificationTraining(epochs=1, batch_size=3, tensorboard=False, report=False),
    )
    code, _, error = finish(trained(config, tool="train_cls"))
    assert code == 0, error[-2000:]
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two["processes"] == 2
    # resumed by one process, the finished run is measured once more
    config = ClassificationConfig.from_yaml((tmp_path / "two" / "config.yaml").read_text())
    one = train(config, resume=True)
    for split in ("val", "test"):
        assert two[split]["images"] == one[split]["images"]
        assert two[split]["confusion"] == one[split]["confusion"]


def wait_for(path):
    deadline = time.time() + 200
    while not path.exists():
        assert time.time() < deadline, f"{path} never came"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_of_which_one_process_was_killed_goes_on_bit_equal(config, tmp_path, victim):
    more = replace(config.data, root=str(make_folder(tmp_path / "more", count=24, scale=255)))
    settings = {"epochs": 2, "save_every": 1, "keep": 1}
    whole = changed(replace(config, data=more), "whole", **settings)
    code, _, error = finish(trained(whole))
    assert code == 0, error[-2000:]
    broken = changed(whole, "broken")
    process = trained(broken)
    wait_for(Path(broken.run_dir) / "checkpoints" / "step_00000002")
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[victim]), signal.SIGKILL)
    code, _, _ = finish(process)
    assert code != 0
    code, out, error = finish(trained(broken, "--resume"))
    assert code == 0, error[-2000:]
    assert "resumed from" in out
    for name in ("last/model.safetensors", "best/model.safetensors", "log.jsonl"):
        ours, theirs = ((Path(run.run_dir) / name).read_bytes() for run in (broken, whole))
        assert ours == theirs, name


@pytest.mark.slow
def test_all_processes_stop_where_weights_blow_up(config, tmp_path):
    """Saved or not, after the step: and no process is left to wait for the others."""
    root = str(make_folder(tmp_path / "more", count=24, scale=255))
    config = replace(config, data=replace(config.data, root=root))
    good = changed(config, "run", epochs=1)
    code, _, error = finish(trained(good))
    assert code == 0, error[-2000:]
    run = Path(good.run_dir)
    before = [path.name for path in step_folders(run)]
    for save_every, fault in ((0, "the loss is not finite"), (1, "is not finite after it")):
        worse = changed(good, "run", epochs=2, lr=1e30, clip=None, save_every=save_every)
        code, _, error = finish(trained(worse, "--resume"))
        assert code != 0
        assert fault in error
        assert f"--resume continues from {run / 'checkpoints' / before[0]}" in error
        assert [path.name for path in step_folders(run)] == before
        assert find_fault(run / "last") is None
    weights = load_file(run / "last" / "model.safetensors")
    assert all(torch.isfinite(value.float()).all() for value in weights.values())
