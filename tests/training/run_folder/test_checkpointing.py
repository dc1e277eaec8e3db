"""What a run keeps while it lasts and when it ends badly: best weights, the log, settings, signals,
values that are not finite, full disks.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import kanseg_command
from safetensors.torch import load_file

import kanseg
from conftest import make_folder
from kanseg.config import Config
from kanseg.evaluation.evaluate import evaluate_checkpoint
from kanseg.inference.checkpoint import find_fault, read_weights, save_checkpoint
from kanseg.training.run import train
from kanseg.training.run_folder.logging import read_log, trim_log
from kanseg.training.run_folder.resume import step_folders
from kanseg.training.run_folder.stored_state import read_training
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text

TOOLS = Path(__file__).parents[3] / "tools"


def changed(config, **settings):
    return replace(config, training=replace(config.training, **settings))


def start(config, *arguments, **options):
    path = Path(config.run_dir).with_suffix(".yaml")
    atomic_write_text(path, config.to_yaml())
    return subprocess.Popen(
        [sys.executable, TOOLS / "train_seg.py", "--config", path, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(path):
    deadline = time.time() + 120
    while not path.exists():
        assert time.time() < deadline, f"{path} never came"
        time.sleep(0.01)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def finished(config):
    """The run folder of a finished run, whose checkpoints are all kept."""
    config.training.keep = 9
    train(config)
    return Path(config.run_dir)


# Best weights


@pytest.mark.parametrize(("damage", "ema"), [("bit", 0.5), ("folder", 0.0), ("link", 0.0)])
@pytest.mark.slow_except("bit")
def test_best_weights_that_were_damaged_or_deleted_are_built_anew(config, capsys, damage, ema):
    config = changed(config, keep=9, ema=ema)
    results = train(config)
    run = Path(config.run_dir)
    before = (run / "best" / "model.safetensors").read_bytes()
    if damage == "bit":
        flip_a_bit(run / "best" / "model.safetensors")
    elif damage == "folder":
        shutil.rmtree((run / "best").resolve())
    else:
        (run / "best").unlink()
    again = train(config, resume=True)
    assert (run / "best" / "model.safetensors").read_bytes() == before
    assert find_fault(run / "best") is None
    assert str(again["test"]) == str(results["test"])
    assert f"{run / 'best'} (" in capsys.readouterr().out


def test_best_weights_that_are_lost_are_reported(config, finished, capsys):
    """The last ones take their place, under their own epoch."""
    best_epoch = read_training(finished / "last")[0]["best_epoch"]
    for folder in (finished / "checkpoints").glob("*"):
        if folder.resolve() != (finished / "last").resolve():
            shutil.rmtree(folder)
    state = json.loads((finished / "last" / "state.json").read_text())
    if best_epoch == state["epoch"]:  # then it can be built anew from the last one
        train(config, resume=True)
        assert find_fault(finished / "best") is None
        return
    results = train(config, resume=True)
    assert f"best, of epoch {best_epoch}, is lost" in capsys.readouterr().out
    assert results["best_epoch"] == state["epoch"]
    ours, last = (load_file(finished / name / "model.safetensors") for name in ("best", "last"))
    assert all(torch.equal(value, last[key]) for key, value in ours.items())


def test_best_weights_of_a_later_epoch_than_the_checkpoint_are_not_taken_for_its_own(config):
    """A run whose newest checkpoint is torn goes on from an older one, with other settings: best is
    what that one names.
    """
    config = changed(config, keep=9, lr=1e-2)
    config.model.options |= {"norm": "instance"}  # no statistics move when the weights do not
    train(config)
    run = Path(config.run_dir)
    first = min(step_folders(run))
    state = read_training(first)[0]
    assert (state["epoch"], state["best_epoch"]) == (1, 1)
    weights = load_file(first / "model.safetensors")
    flip_a_bit(max(step_folders(run)) / "training.pt")
    results = train(changed(config, lr=1e-9), resume=True)  # epoch 2 is no better then
    assert results["best_epoch"] == 1
    best = load_file(run / "best" / "model.safetensors")
    assert all(torch.equal(best[key], value) for key, value in weights.items())


# The log


def entries(*steps):
    return [{"step": step, "epoch": 1, "loss": 0.5} for step in steps]


def as_lines(some):
    return "".join(json.dumps(entry) + "\n" for entry in some)


@pytest.mark.parametrize(
    ("stored", "steps"),
    [
        (as_lines(entries(1, 2, 3)), [1, 2]),  # what came after the checkpoint
        (as_lines(entries(1, 2))[:-9], [1]),  # cut off in a line
        (as_lines(entries(1)) + "\0" * 20 + "\n" + as_lines(entries(2)), [1, 2]),
        (as_lines(entries(2, 3)), [2]),  # the first line is gone: bytes do not tell
        ("", []),
        (None, []),
    ],
)
def test_a_damaged_log_is_cut_to_the_lines_that_are_whole_and_known(tmp_path, stored, steps):
    state = {"step": 2, "epoch": 0, "log_bytes": len(as_lines(entries(1, 2)))}
    path = tmp_path / "log.jsonl"
    if stored is not None:
        path.write_text(stored)
    lost = trim_log(tmp_path, state)
    assert [entry["step"] for entry in read_log(path)] == steps
    assert (lost is None) == (steps == [1, 2])


def test_the_end_of_an_epoch_is_cut_off_for_a_checkpoint_of_its_last_step(tmp_path):
    text = as_lines([*entries(1, 2), {"step": 2, "epoch": 1, "train": {"loss": 0.5}}])
    (tmp_path / "log.jsonl").write_text(text)
    trim_log(tmp_path, {"step": 2, "epoch": 0, "log_bytes": len(text)})
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")] == [1, 2]
    (tmp_path / "log.jsonl").write_text(text)
    trim_log(tmp_path, {"step": 2, "epoch": 1, "log_bytes": len(text)})
    assert (tmp_path / "log.jsonl").read_text() == text


def test_a_line_that_is_no_entry_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text(as_lines(entries(1)) + '{"step": 2, "ep\n')
    with pytest.raises(InputError, match=r"log\.jsonl: line 2 is damaged"):
        read_log(tmp_path / "log.jsonl")


def test_a_run_whose_log_was_cut_off_ends_well_and_says_so(config, finished, capsys):
    content = (finished / "log.jsonl").read_bytes()
    (finished / "log.jsonl").write_bytes(content[: len(content) // 2])
    config.training.report, config.training.panels = True, 0
    train(config, resume=True)
    assert f"of the {len(content)} at the time of the checkpoint" in capsys.readouterr().out
    assert (finished / "curves.png").is_file()
    # Figures of an earlier state do not stay beside new results.
    config.training.report = False
    train(config, resume=True)
    assert not list(finished.glob("*.png"))
    assert not (finished / "report.html").exists()


# Settings


SLOW = [pytest.param(damage, marks=pytest.mark.slow) for damage in ("zeros", "empty")]


@pytest.mark.parametrize("damage", ["cut", "deleted", *SLOW])
def test_damaged_settings_are_reported_and_those_of_the_checkpoint_taken(config, finished, damage):
    path = finished / "config.yaml"
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "zeros": bytes(99)}.get(damage, b""))
    if damage == "deleted":
        path.unlink()
    done = kanseg_command("train", "--resume", "--run_dir", finished)
    assert done.returncode == 0, done.stderr
    fault = "is missing" if damage == "deleted" else "is damaged"
    assert f"{path} {fault}: using the settings in" in done.stdout
    assert path.read_bytes() == content


def test_another_setting_is_refused_with_the_way_to_go_on(config, finished):
    config.data.gamma = 0.5
    with pytest.raises(InputError, match=r"data\.gamma.*--config .*step_0+4/config\.yaml"):
        train(config, resume=True)


@pytest.mark.slow
def test_a_run_folder_that_was_moved_goes_on(config, tmp_path):
    whole = replace(config, run_dir=str(tmp_path / "whole"))
    train(changed(whole, epochs=3))
    train(config)
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.move(config.run_dir, tmp_path / "elsewhere" / "moved"))
    done = kanseg_command("train", "--resume", "--run_dir", moved, "--training.epochs", "3")
    assert done.returncode == 0, done.stderr
    assert not Path(config.run_dir).exists()
    for name in ("log.jsonl", "best/model.safetensors"):
        assert (moved / name).is_file()
    assert read_training(moved / "last")[0]["epoch"] == 3


# Starting and stopping


@pytest.mark.slow
def test_a_second_starter_does_not_train_over_a_run_that_ended_meanwhile(config):
    """It has found the folder free, and is about to lock it when another process runs there from
    beginning to end.
    """
    atomic_write_text(Path(config.run_dir).with_suffix(".yaml"), config.to_yaml())
    command = [sys.executable, str(TOOLS / "train_seg.py")]
    command += ["--config", str(Path(config.run_dir).with_suffix(".yaml"))]
    late = f"""
    import os, subprocess, sys
    done = []
    def heard(event, arguments):
        if event == "open" and str(arguments[0]).endswith(".lock") and not done:
            done.append(subprocess.run({command!r}, stdout=subprocess.DEVNULL).returncode)
    sys.addaudithook(heard)
    from kanseg.config import Config
    from kanseg.utils.errors import run_tool
    from kanseg.cli.train import train_command
    run_tool(lambda: train_command({command[2:]!r}, kind=Config, description=""))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(late)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 2, run.stdout + run.stderr
    assert "ended a run there meanwhile" in run.stderr
    assert [entry["epoch"] for entry in read_log(Path(config.run_dir) / "log.jsonl")][-1] == 2


@pytest.fixture
def endless(config, tmp_path):
    root = make_folder(tmp_path / "more", count=30, scale=255)
    return replace(
        changed(config, epochs=500, save_every=0),
        data=replace(config.data, root=str(root), workers=2),
    )


def test_ctrl_c_saves_and_says_what(endless):
    """It reaches the whole group, reading processes too."""
    process = start(endless, start_new_session=True)
    run = Path(endless.run_dir)
    wait_for(run / "last")
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    newest = max(step_folders(run))
    assert find_fault(newest) is None
    assert f"--resume continues from {newest}" in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize(("event", "name"), [("import", "torch"), ("open", ".png")])
def test_ctrl_c_before_the_first_checkpoint_names_none(config, event, name):
    """It arrives while PyTorch is imported, or while the data is checked."""
    path = Path(config.run_dir).with_suffix(".yaml")
    atomic_write_text(path, config.to_yaml())
    words = ["kanseg", "train", "--config", str(path)]
    interrupted = f"""
    import signal, sys
    sent = []
    def heard(event, arguments):
        if event == {event!r} and str(arguments[0]).endswith({name!r}) and not sent:
            sent.append(event)
            signal.raise_signal(signal.SIGINT)
    sys.addaudithook(heard)
    sys.argv = {words!r}
    from kanseg.cli.main import main
    main()
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(interrupted)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 130, run.stderr
    assert run.stderr.splitlines()[-1].startswith("interrupted")
    assert "--resume continues from" not in run.stderr


# Values that are not finite


def test_weights_that_blew_up_are_not_saved(config):
    config = changed(config, lr=1e30, clip=None, save_every=1, warmup=0.0)
    with pytest.raises(InputError, match=r"step 1: .*encoder\.stages.* is not finite") as caught:
        train(config)
    assert "there is no checkpoint to continue from" in str(caught.value)
    assert not list(Path(config.run_dir).glob("checkpoints/*"))


def test_the_last_good_checkpoint_is_kept_and_named(config, finished):
    before = sorted(path.name for path in (finished / "checkpoints").iterdir())
    worse = changed(config, epochs=4, lr=1e30, clip=None, save_every=1)
    with pytest.raises(InputError, match=r"not finite.*--resume continues from .*step_00000004"):
        train(worse, resume=True)
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == before
    train(changed(config, epochs=3), resume=True)


@pytest.fixture
def with_nan(finished):
    """A checkpoint, whole in itself, of which one weight is NaN; and the name of the weight."""
    weights = read_weights(finished / "best")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name].view(-1)[0] = float("nan")
    model = kanseg.from_pretrained(finished)
    model.load_state_dict(weights)
    description = json.loads((finished / "best" / "model.json").read_text())
    config = Config.from_yaml((finished / "config.yaml").read_text())
    return save_checkpoint(finished / "broken", model, description, config), name


def test_weights_that_are_not_finite_are_refused_wherever_they_are_loaded(with_nan, tmp_path):
    broken, name = with_nan
    for load in (
        kanseg.load,
        kanseg.from_pretrained,
        lambda folder: evaluate_checkpoint(folder, "test"),
        lambda folder: kanseg.create_encoder("unet", weights=folder),
    ):
        with pytest.raises(InputError, match=rf"{name} .*NaN or infinite"):
            load(str(broken))
    words = ["--input", tmp_path / "set" / "images", "--output", tmp_path / "masks"]
    done = kanseg_command("predict", "--checkpoint", broken, *words)
    assert done.returncode == 2
    assert name in done.stderr
    assert not (tmp_path / "masks").exists()


def test_weights_that_are_not_finite_are_not_stored(tmp_path):
    model = kanseg.create_model("unet", in_channels=3, classes=1, width=4, depth=2)
    next(buffer for buffer in model.buffers() if buffer.is_floating_point()).fill_(float("inf"))
    with pytest.raises(InputError, match="NaN or infinite"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_outputs_that_are_not_finite_are_no_masks(finished, tmp_path):
    """The weights are finite, and too large for what is computed with them."""
    model = kanseg.from_pretrained(finished)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    description = json.loads((finished / "best" / "model.json").read_text())
    config = Config.from_yaml((finished / "config.yaml").read_text())
    folder = save_checkpoint(finished / "huge", model, description, config)
    image = torch.randint(0, 255, (32, 40, 3), dtype=torch.uint8).numpy()
    predictor = kanseg.load(str(folder))
    for predict in (predictor, predictor.probabilities, predictor.uncertainty):
        with pytest.raises(InputError, match="NaN"):
            predict(image)


# Full disks


@pytest.mark.slow
def test_a_full_disk_leaves_the_older_checkpoint_and_one_line(config, finished, tmp_path):
    """Files cannot grow beyond a limit: the settings and the log fit, the weights do not."""
    limit = 20_000
    assert (finished / "last" / "training.pt").stat().st_size > limit
    before = sorted(path.name for path in (finished / "checkpoints").iterdir())

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    longer = changed(config, epochs=3)
    process = start(longer, "--resume", preexec_fn=limited)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "the checkpoint could not be written" in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == before
    assert find_fault(finished / "best") is find_fault(finished / "last") is None
    train(longer, resume=True)
    whole = replace(longer, run_dir=str(tmp_path / "whole"))
    train(changed(whole, epochs=2))
    train(whole, resume=True)
    assert (finished / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
