import hashlib
import json
import os
import re
import shutil
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
from commands import kanseg_command
from PIL import Image
from safetensors.torch import load_file

from conftest import make_folder
from kanseg.cli.train import train_segmentation
from kanseg.config import Config
from kanseg.inference.checkpoint import find_fault, read_description
from kanseg.training.optim.lr_scheduler import warmup_cosine
from kanseg.training.run import train
from kanseg.training.run_folder.resume import Resumed, lock_run, newest_complete, settings_changed
from kanseg.training.run_folder.stored_state import read_training
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text

MORE_KINDS = (
    "misspelt penalty",
    "balance of nothing",
    "turned oblong images",
    "name in the options",
    "range",
    "misspelt split",
)
TWO = os.environ | {"OMP_NUM_THREADS": "1"}
if torch.cuda.is_available():  # without a GPU, as the README has it
    TWO["ACCELERATE_USE_CPU"] = "true"
TOOL = Path(__file__).parents[2] / "tools" / "train_seg.py"


def two_processes(settings):
    """The command that starts a run in two processes, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(port),
        TOOL,
        "--config",
        settings,
    ]


def wait_for(path):
    """Until something is there, two minutes at most."""
    deadline = time.time() + 120
    while not path.exists():
        assert time.time() < deadline, f"{path} never came"
        time.sleep(0.01)


def digest(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def start(config, *arguments, **options):
    path = Path(config.run_dir).parent / "settings.yaml"
    atomic_write_text(path, config.to_yaml())
    return subprocess.Popen(
        [sys.executable, TOOL, "--config", path, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_a_run_leaves_everything_that_is_promised(config, folder):
    before = digest(folder)
    config.training.report, config.training.panels = True, 2
    results = train(config)
    run = Path(config.run_dir)
    assert {p.name for p in run.iterdir() if p.name != ".lock"} == {
        *(
            "config.yaml",
            "log.jsonl",
            "split.json",
            "metrics.json",
            "times.json",
            "checkpoints",
            "best",
            "last",
            "samples",
            "overview.png",
            "curves.png",
        ),
        *(
            "worst.png",
            "best.png",
            "confusion.png",
            "report.html",
            "scores_val.csv",
            "scores_test.csv",
        ),
    }
    stored = json.loads((run / "metrics.json").read_text())
    assert stored["test"]["images"] == 2
    assert 0 <= stored["val"]["mean_iou"] <= 1
    assert stored["parameters"] == results["parameters"] > 0
    assert {p.name for p in (run / "samples").iterdir()} == {"p04.png", "p05.png"}
    assert Image.open(run / "samples" / "p04.png").width > 600
    page = (run / "report.html").read_text()
    assert page.count("<img") == 5
    assert f">{stored['test']['mean_iou']:.4f}<" in page
    assert digest(folder) == before  # the data are never written


def test_learning_happens(config):
    config = replace(config, training=replace(config.training, epochs=12, lr=1e-2))
    train(config)
    losses = [
        json.loads(line)["train"]["loss"]
        for line in (Path(config.run_dir) / "log.jsonl").read_text().splitlines()
        if "train" in line
    ]
    assert losses[-1] < 0.85 * losses[0]


def test_the_same_seed_gives_the_same_run_and_workers_do_not_matter(config, tmp_path):
    logs = []
    for number, workers in enumerate((0, 2)):
        again = replace(
            config,
            run_dir=str(tmp_path / f"run{number}"),
            data=replace(config.data, workers=workers),
        )
        train(again)
        logs.append((Path(again.run_dir) / "log.jsonl").read_bytes())
    assert logs[0] == logs[1]


def outcome(run):
    weights = (run / "last" / "model.safetensors").read_bytes()
    return (
        hashlib.sha256(weights).hexdigest(),
        (run / "log.jsonl").read_bytes(),
        hashlib.sha256((run / "best" / "model.safetensors").read_bytes()).hexdigest(),
    )


@pytest.mark.parametrize(
    "kill", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_killed_and_resumed_run_ends_bit_equal(config, tmp_path, kill, capsys):
    training = replace(config.training, epochs=3, save_every=1, log_every=1, accumulate=1, keep=3)
    options = config.model.options | {"dropout": 0.2}
    config = replace(
        config,
        training=training,
        model=replace(config.model, options=options),
        data=replace(config.data, root=str(make_folder(tmp_path / "more", count=24, scale=255))),
    )
    whole = replace(config, run_dir=str(tmp_path / "whole"))
    train(whole)
    broken = replace(config, run_dir=str(tmp_path / "broken"))
    process = start(broken)
    wait_for(Path(broken.run_dir) / "checkpoints" / "step_00000003")
    process.send_signal(kill)
    code, _, _ = finish(process)
    assert code == (143 if kill == signal.SIGTERM else -signal.SIGKILL)
    train(broken, resume=True)
    assert "resumed from" in capsys.readouterr().out
    assert outcome(Path(broken.run_dir)) == outcome(Path(whole.run_dir))


def test_resume_without_a_config_takes_the_stored_one(config):
    train(replace(config, training=replace(config.training, epochs=1)))
    words = ["--resume", "--run_dir", config.run_dir, "--training.epochs", "2"]
    run = kanseg_command("train", *words)
    assert run.returncode == 0, run.stderr
    assert "resumed with another setting: training.epochs: 1 -> 2" in run.stdout


@pytest.mark.slow
def test_sigterm_to_a_whole_group_with_readers_saves_and_leaves_with_143(config, tmp_path):
    more = replace(
        config.data, root=str(make_folder(tmp_path / "more", count=30, scale=255)), workers=2
    )
    config = replace(config, data=more, training=replace(config.training, epochs=200, save_every=1))
    process = start(config, start_new_session=True)
    wait_for(Path(config.run_dir) / "last")
    os.killpg(process.pid, signal.SIGTERM)
    code, _, error = finish(process)
    assert code == 143, error
    assert find_fault(Path(config.run_dir) / "last") is None


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(config, tmp_path):
    config = replace(config, training=replace(config.training, epochs=500, save_every=1))
    atomic_write_text(tmp_path / "settings.yaml", config.to_yaml())
    launched = subprocess.Popen(
        two_processes(tmp_path / "settings.yaml"),
        env=TWO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(Path(config.run_dir) / "last")
        children = subprocess.run(
            ["pgrep", "-P", str(launched.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(children[-1]), signal.SIGTERM)
        launched.communicate(timeout=120)
    finally:
        launched.kill()
    assert find_fault(Path(config.run_dir) / "last") is None


def test_a_resumed_run_takes_new_training_settings_and_refuses_another_experiment(config):
    train(config)
    config.training.epochs, config.training.lr = 3, 0.5
    train(config, resume=True)
    steps = [
        json.loads(line) for line in (Path(config.run_dir) / "log.jsonl").read_text().splitlines()
    ]
    total, done = 6, 4
    expected = 0.5 * warmup_cosine(done, total=total, warmup=0.3)
    assert (
        abs(next(s["lr"] for s in steps if s.get("step") == done + 1 and "lr" in s) - expected)
        < 1e-9
    )
    config.data.gamma = 0.5
    with pytest.raises(InputError, match=r"data\.gamma: 1\.0 -> 0\.5"):
        train(config, resume=True)


def test_the_default_augmentation_is_stored_and_a_resumed_run_keeps_its_own(config, capsys):
    config.data.augment, config.training.epochs = "auto", 1
    train(config)
    assert "data.augment auto: every other image is mirrored" in capsys.readouterr().out
    flips = [{"torchvision.RandomHorizontalFlip": {"p": 0.5}}]
    stored = Path(config.run_dir) / "last" / "config.yaml"
    assert Config.from_yaml(stored.read_text()).data.augment == flips
    config.training.epochs = 2
    train(config, resume=True)
    assert "data.augment" not in capsys.readouterr().out

    config.run_dir += "_before"  # a run of a version that augmented nothing by default
    train(replace(config, data=replace(config.data, augment=[])))
    config.training.epochs = 3
    train(config, resume=True)
    assert "data.augment" not in capsys.readouterr().out
    stored = Path(config.run_dir) / "last" / "config.yaml"
    assert Config.from_yaml(stored.read_text()).data.augment == []


def test_an_epoch_cannot_go_on_in_other_batches(config):
    config.training.save_every = 1
    train(config)
    run = Path(config.run_dir)
    for folder in (run / "checkpoints").glob("step_*"):
        if folder.name != "step_00000003":
            shutil.rmtree(folder)
    state = read_training(run / "checkpoints" / "step_00000003")[0]
    assert state["batch"] == 1
    with pytest.raises(InputError, match="middle of an epoch"):
        Resumed(run, state, {}).check([2, 2, 1, 1])
    Resumed(run, state, {}).check(state["layout"])


def faulty(config, folder, kind):
    """Break one thing; the line that names it."""
    if kind == "mask out of range":
        Image.fromarray(np.full((32, 40), 7, np.uint8)).save(folder / "masks" / "p01.png")
        config.data.task, config.data.classes, config.data.mask_values = (
            "binary",
            ["a", "b"],
            {0: 0, 255: 1},
        )
        return "p01.png: value 7 at row 0, column 0 (1280 pixels in all)"
    if kind == "image without mask":
        (folder / "masks" / "p00.png").unlink()
        return "p00.png: the image has no mask"
    if kind == "unknown option of the model":
        config.model.options["dept"] = 3
        return "unknown option 'dept'; did you mean 'depth'"
    if kind == "sizes":
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "images" / "p00.png")
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "masks" / "p00.png")
        config.training.batch_size = 2
        return "set data.resize or data.crop"
    if kind == "augmentation":
        config.data.augment = [{"HorizontalFlipp": {}}]
        return "did you mean 'HorizontalFlip'"
    if kind == "turned oblong images":
        config.data.augment, config.training.batch_size = ["Transpose"], 2
        return "the sizes (height x width) 32x40, 40x32"
    if kind == "name in the options":
        config.model.options["basis"] = "none"
        return "model.options cannot hold basis"
    if kind == "misspelt penalty":
        config.training.penalty = {"weight_l1": 0.1}
        return "training.penalty: unknown penalty 'weight_l1'; did you mean 'weights_l1'"
    if kind == "balance of nothing":
        config.training.penalty = {"balance": 0.1}
        return (
            "training.penalty: penalty 'balance' needs a model with mixtures of experts"
            " (model.options.experts)"
        )
    if kind == "range":
        config.data.workers = -1
        return "data.workers must be at least 0, got -1"
    if kind == "misspelt split":
        config.data.val = ["vall"]
        return "there is no split 'vall'; did you mean 'val'"
    config.training.monitor = "iou"
    return "training.monitor 'iou' is not one of"


@pytest.mark.parametrize(
    "kind",
    [
        "mask out of range",
        "image without mask",
        "unknown option of the model",
        "sizes",
        "augmentation",
        "monitor",
        *MORE_KINDS,
    ],
)
def test_faults_are_named_before_anything_is_written(config, folder, kind):
    expected = faulty(config, folder, kind)
    with pytest.raises(InputError) as caught:
        train(config)
    assert expected in str(caught.value)
    assert not Path(config.run_dir).exists()


def test_a_set_without_val_or_test_trains_and_says_so(config, folder, capsys):
    for name in ("val", "test"):
        (folder / f"{name}.txt").unlink()
    assert "test" not in train(config)
    assert "there is no split 'val'" in capsys.readouterr().out


def test_bad_samples_can_be_skipped(config, folder, capsys):
    (folder / "masks" / "p00.png").unlink()
    config.data.skip_bad = True
    train(config)
    out = capsys.readouterr().out
    assert "left out: " in out
    assert "data: train 1 images (1 left out)" in out


def test_classes_are_inferred_from_the_good_masks_if_bad_ones_are_skipped(config, folder, capsys):
    Image.fromarray(np.full((32, 40), 7, np.uint8)).save(folder / "masks" / "p00.png")
    config.data.skip_bad, config.training.epochs = True, 1
    train(config)
    out = capsys.readouterr().out
    assert "without 1 of 6 masks" in out
    assert re.search(r"left out: .*p00\.png: value 7 ", out)
    assert "data: train 1 images (1 left out)" in out
    labels = read_description(Path(config.run_dir) / "best")["labels"]
    assert labels["classes"] == ["background", "foreground"]


def test_what_cannot_be_left_out_stops_even_so(config, folder):
    (folder / "train.txt").write_text("p00\np01\np99\n")
    config.data.skip_bad = True
    with pytest.raises(InputError, match="p99"):
        train(config)


def test_warnings_of_one_reason_are_a_line_and_do_not_stop(config, folder, capsys):
    for name in ("p00", "p01", "p02", "p03"):
        Image.fromarray(np.zeros((32, 40), np.uint8)).save(folder / "masks" / f"{name}.png")
    config.training.epochs = 1
    train(config)
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("data: warning: ")
    ]
    (line,) = [line for line in lines if "all pixels are background" in line]
    assert all(f"p0{number}.png" in line for number in range(4))


def test_all_faults_of_the_data_end_the_tool_a_line_each_with_code_2(config, folder):
    (folder / "images" / "p00.png").write_bytes(b"")
    (folder / "masks" / "p02.png").unlink()
    (folder / "val.txt").write_text("p02\nnobody\n")
    Image.fromarray(np.zeros((32, 40, 3), np.uint8) + np.arange(3, dtype=np.uint8)).save(
        folder / "masks" / "p01.png"
    )
    path = Path(config.run_dir).with_suffix(".yaml")
    atomic_write_text(path, config.to_yaml())
    run = kanseg_command("train", "--config", path)
    assert run.returncode == 2
    faults = (
        "p00.png: the file is empty",
        "p02.png: the image has no mask",
        "val.txt: 1 of 2 names",
        "p01.png: a color mask",
    )
    assert all(fault in run.stderr for fault in faults)
    assert run.stderr.count("\n") == run.stderr.count("error: ") == 4
    assert not Path(config.run_dir).exists()


@pytest.mark.parametrize(
    "arguments", [["--training.epochz", "3"], ["--resume"], ["--data.root", "nowhere"]]
)
def test_the_tool_ends_with_one_line_and_exit_code_2(tmp_path, arguments):
    run = kanseg_command("train", "--run_dir", tmp_path / "r", *arguments)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("error: ")
    assert not (tmp_path / "r").exists()


def test_two_runs_do_not_write_to_one_folder(config):
    Path(config.run_dir).mkdir()
    with (
        lock_run(Path(config.run_dir)),
        pytest.raises(InputError, match="being written by another process"),
    ):
        train(config)
    assert [p.name for p in Path(config.run_dir).iterdir()] == [".lock"]
    train(config)


def test_fp16_on_the_cpu_is_refused(config):
    config.training.precision = "fp16"
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        train(config)


def test_an_earlier_run_is_not_lost(config):
    train(config)
    with pytest.raises(InputError, match="holds a run already"):
        train(config)
    train(config, overwrite=True)


def test_a_run_without_validation_keeps_its_last_weights_as_best(config):
    config.data.train, config.data.val = ["train", "val"], []
    results = train(config)
    assert results["best_epoch"] == 2
    assert "val" not in results


def test_a_loss_that_is_not_finite_names_batch_and_layer(config):
    config.training.lr, config.training.clip = 1e30, None
    config.training.epochs = 6
    with pytest.raises(
        InputError,
        match=(
            r"the loss is not finite; batch of p0\d; first layer with such an output:"
            r" encoder\.stages"
        ),
    ) as caught:
        train(config)
    assert (Path(config.run_dir) / "non_finite.pt").is_file()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("precision", "accumulate"), [("bf16", 1), ("no", 2)])
def test_mixed_precision_and_accumulation_train(config, precision, accumulate):
    config.training.precision, config.training.accumulate = precision, accumulate
    assert 0 <= train(config)["test"]["mean_iou"] <= 1


def test_a_penalty_on_the_weights_shrinks_them(config, tmp_path):
    sizes = []
    for number, penalty in enumerate([{}, {"weights_l1": 100.0, "activations_l2": 0.1}]):
        config.run_dir, config.training.penalty, config.training.epochs, config.training.lr = (
            str(tmp_path / f"p{number}"),
            penalty,
            3,
            0.01,
        )
        train(config)
        weights = load_file(tmp_path / f"p{number}" / "last" / "model.safetensors")
        sizes.append(
            sum(w.abs().sum() for name, w in weights.items() if name.endswith("basis_conv.weight"))
        )
    assert sizes[1] < 0.9 * sizes[0]


def test_the_balance_of_experts_reaches_the_optimizer(config, tmp_path):
    """One expert an image has the gate 1 whatever the logits are: the gate's weights, which start
    at zero, move by the balance alone.
    """
    config.model.options |= {"experts": 3, "top_k": 1}
    config.training.epochs, config.training.batch_size = 1, 2
    for penalty, moves in (({}, False), ({"balance": 0.1}, True)):
        config.run_dir, config.training.penalty = str(tmp_path / f"p{len(penalty)}"), penalty
        train(config)
        gates = [
            value
            for name, value in load_file(
                Path(config.run_dir) / "last" / "model.safetensors"
            ).items()
            if name.endswith(".gate")
        ]
        assert gates
        assert all((gate != 0).any() == moves for gate in gates)


def test_accumulated_batches_give_the_gradient_of_the_large_batch(config, folder, tmp_path):
    config.model.options["norm"] = "instance"
    config.training.loss = {"ce": 1.0}
    config.data.augment = []
    config.training.epochs = 1
    weights = []
    for number, (batch, accumulate) in enumerate([(2, 1), (1, 2)]):
        config.run_dir = str(tmp_path / f"acc{number}")
        config.training.batch_size, config.training.accumulate = batch, accumulate
        train(config)
        from kanseg.inference.checkpoint import read_weights

        weights.append(read_weights(Path(config.run_dir) / "last"))
    for name, value in weights[0].items():
        np.testing.assert_allclose(value.numpy(), weights[1][name].numpy(), atol=2e-4)


def test_two_processes_score_like_one(config, tmp_path):
    config = replace(
        config,
        data=replace(config.data, root=str(make_folder(tmp_path / "odd", count=15, scale=255))),
    )
    config.training.epochs = 1
    single = train(replace(config, run_dir=str(tmp_path / "single")))
    settings = tmp_path / "settings.yaml"
    atomic_write_text(settings, replace(config, run_dir=str(tmp_path / "double")).to_yaml())
    run = subprocess.run(
        two_processes(settings), capture_output=True, text=True, timeout=300, env=TWO
    )
    assert run.returncode == 0, run.stderr[-2000:]
    double = json.loads((tmp_path / "double" / "metrics.json").read_text())
    assert (
        (double["val"]["images"], double["test"]["images"])
        == (single["val"]["images"], single["test"]["images"])
        == (5, 5)
    )
    # the same weights give the same scores in one process
    shutil.copytree(tmp_path / "double" / "best", tmp_path / "copy", symlinks=False)
    from kanseg.evaluation.evaluate import evaluate_checkpoint

    assert (
        abs(evaluate_checkpoint(tmp_path / "copy", "test")["mean_iou"] - double["test"]["mean_iou"])
        < 1e-9
    )


def test_the_learning_rate_rises_then_falls_to_zero():
    factors = [warmup_cosine(step, total=100, warmup=0.3) for step in range(101)]
    assert factors.index(max(factors)) == 30
    assert factors[30] == 1
    assert factors[0] == 0.04
    assert abs(factors[100]) < 1e-12


def test_changed_settings_are_named(config):
    old = config.to_yaml()
    config.training.lr = 0.5
    assert settings_changed(old, config) == ["training.lr: 0.001 -> 0.5"]


def test_resume_auto_starts_continues_and_leaves_a_finished_run(config, capsys):
    words = ["--config", "SETTINGS", "--resume", "auto"]
    settings = Path(config.run_dir).parent / "settings.yaml"
    settings.write_text(replace(config, training=replace(config.training, epochs=1)).to_yaml())
    words[1] = str(settings)
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text("seed: 1\n")  # of a run that was killed at once
    train_segmentation(words)
    assert "resumed from" not in capsys.readouterr().out
    first = (run_dir / "last" / "model.safetensors").read_bytes()
    train_segmentation(words)  # finished: nothing is trained
    assert (run_dir / "last" / "model.safetensors").read_bytes() == first
    train_segmentation([*words, "--training.epochs", "2"])
    assert "resumed from" in capsys.readouterr().out
    log = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log if "train" in entry] == [1, 2]
    for folder in (run_dir / "checkpoints").glob("step_*"):  # deleted to save space
        shutil.rmtree(folder)
    best = (run_dir / "best" / "model.safetensors").read_bytes()
    with pytest.raises(InputError):
        train_segmentation(words)
    assert (run_dir / "best" / "model.safetensors").read_bytes() == best


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
def test_sigusr1_saves_and_ends(config, tmp_path):
    config = replace(config, training=replace(config.training, epochs=200, save_every=1))
    process = start(config)
    wait_for(Path(config.run_dir) / "last")
    process.send_signal(signal.SIGUSR1)
    code, _, error = finish(process)
    assert code == 128 + signal.SIGUSR1, error
    assert newest_complete(Path(config.run_dir))[0].is_dir()
