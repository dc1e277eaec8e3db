"""Run folders of trainings that were killed right after a checkpoint."""

import json
import shutil
from pathlib import Path

from kanseg.training.run_folder.resume import best_folders, epoch_of, step_folders


def copy_stopped(whole, stopped, step):
    """Copy a finished run (save_every 1, keep 99) as a kill after the checkpoint of a step would
    have left it; log.jsonl keeps its later lines, as if the kill had come before the next
    checkpoint.
    """
    whole, stopped = Path(whole), Path(stopped)
    shutil.copytree(whole / "checkpoints", stopped / "checkpoints")
    for name in ("config.yaml", "log.jsonl", "split.json"):
        shutil.copy(whole / name, stopped / name)
    for folder in step_folders(stopped):
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)
    newest = step_folders(stopped)[0]
    assert newest.name == f"step_{step:08d}"
    state = json.loads((newest / "state.json").read_text())
    for folder in best_folders(stopped):
        if epoch_of(folder) > state["epoch"]:
            shutil.rmtree(folder)
    if state["best_epoch"] is not None:
        (stopped / "best").symlink_to(Path("checkpoints") / f"best_{state['best_epoch']:05d}")
