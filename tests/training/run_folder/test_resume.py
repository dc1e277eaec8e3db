import hashlib
import json
import os
import signal
import time

import pytest

from conftest import write_checkpoint
from kanseg.training.run_folder.resume import (
    RunBusy,
    lock_run,
    newest_complete,
    prune,
    step_folders,
)
from kanseg.utils.errors import InputError


def test_the_newest_complete_one_is_taken_and_the_torn_ones_reported(tmp_path):
    kept, _ = write_checkpoint(tmp_path, 1)
    torn, _ = write_checkpoint(tmp_path, 2)
    damaged, _ = write_checkpoint(tmp_path, 3)
    bare, _ = write_checkpoint(tmp_path, 4)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    damaged_file = damaged / "training.pt"
    damaged_file.write_bytes(damaged_file.read_bytes()[:-1] + b"x")
    (bare / "manifest.json").unlink()
    folder, skipped = newest_complete(tmp_path)
    assert folder == kept
    assert [line.split(": ")[1].split(" (")[0] for line in skipped] == [
        "not a checkpoint",
        "training.pt is damaged",
        skipped[2].split(": ")[1],
    ]
    assert "bytes instead of" in skipped[2]


def test_an_unfinished_folder_is_never_seen(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 1)
    monkeypatch.setattr(
        "kanseg.inference.checkpoint.save_file",
        lambda *_: (_ for _ in ()).throw(OSError("disk full")),
    )
    with pytest.raises(InputError, match="could not be written .*disk full"):
        write_checkpoint(tmp_path, 2)
    assert [p.name for p in step_folders(tmp_path)] == ["step_00000001"]


def test_nothing_to_resume_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        newest_complete(tmp_path)


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """Reading processes outlive one that is killed by some seconds."""
    runs, says = os.pipe()
    with lock_run(tmp_path):
        child = os.fork()
        if not child:
            os.write(says, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(runs, 1)
        with pytest.raises(RunBusy):
            lock_run(tmp_path)
    with lock_run(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").mkdir()  # as no permission would, for those who have them all
    with pytest.raises(InputError, match=r"run cannot be written \(.*\); choose another --run_dir"):
        lock_run(tmp_path / "run")


def test_pruning_keeps_the_newest(tmp_path):
    for step in (1, 2, 10):
        write_checkpoint(tmp_path, step)
    prune(tmp_path, 2, newest=10)
    assert [p.name for p in step_folders(tmp_path)] == ["step_00000010", "step_00000002"]


def test_whole_files_that_no_run_has_written_are_skipped(tmp_path):
    """Their check sums fit: a damaged memory, or someone who means harm."""
    kept, _ = write_checkpoint(tmp_path, 1)
    spoiled = {
        "state.json": b'{"step": "x"}',
        "training.pt": b"no zip file",
        "model.safetensors": b"no tensors",
        "model.json": b"[]",
        "config.yaml": b"a: [",
    }
    for step, (name, data) in enumerate(spoiled.items(), start=2):
        folder, _ = write_checkpoint(tmp_path, step)
        (folder / name).write_bytes(data)
        manifest = json.loads((folder / "manifest.json").read_text())
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][name] = {"size": len(data), "sha256": digest}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    folder, skipped = newest_complete(tmp_path)
    assert folder == kept
    assert len(skipped) == len(spoiled)
    for line, name in zip(skipped, reversed(spoiled), strict=True):
        assert name in line


def test_torn_checkpoints_of_later_steps_do_not_count_when_older_ones_are_deleted(tmp_path):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / "step_00000003" / "manifest.json").unlink()
    prune(tmp_path, 1, newest=2)
    assert [p.name for p in step_folders(tmp_path)] == ["step_00000003", "step_00000002"]
    assert newest_complete(tmp_path)[0].name == "step_00000002"
