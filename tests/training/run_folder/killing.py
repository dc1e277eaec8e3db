"""Kills small trainings, resumes them and compares how they end; run by test_kills.py, or by hand:

    python tests/training/killing.py SETTINGS.yaml FOLDER --operations 30 --moments 10 --seed 0

Each training is a fork of this process, which has imported everything and trained nothing. It is
killed before its n-th operation on a file of the run folder (open for writing, rename, remove,
make or remove a folder, link, truncate, flush to disk), or at a random moment, and goes on with
--resume. Prints what came out as JSON.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from kanseg.config import ClassificationConfig, Config
from kanseg.inference.checkpoint import find_fault
from kanseg.training.run import train
from kanseg.training.run_folder.resume import newest_complete
from kanseg.utils.errors import InputError, run_tool

OPERATIONS = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
TIMES = ("seconds", "cpu_seconds", "training_cpu_seconds")
MOST_KILLS = 5  # of one run


class Operations:
    """Counts the operations on files of a run folder in this process, and kills it at one of them.

    Args:
        run: the run folder.
        at: number of the operation before which the process is killed, from 1 on; None for never.
    """

    def __init__(self, run: Path, at: int | None):
        self.run, self.at, self.count = str(run), at, 0
        sys.addaudithook(self._heard)
        flush = os.fsync

        def counted_flush(descriptor: int) -> None:  # there is no audit event for it
            self._counted()
            flush(descriptor)

        os.fsync = counted_flush

    def _heard(self, event: str, arguments: tuple) -> None:
        if event not in OPERATIONS:
            return
        if event == "open" and not arguments[2] & WRITING:
            return
        # what shutil.rmtree deletes is named relative to an open folder
        relative = event in ("os.remove", "os.rmdir") and arguments[-1] != -1
        if relative or any(str(part).startswith(self.run) for part in arguments[:2]):
            self._counted()

    def _counted(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)


def start(config, log: Path, *, at: int | None = None, count: Path | None = None, **mode) -> int:
    """Train in a fork; its process id."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        operations = Operations(Path(config.run_dir), at) if at or count else None
        try:
            run_tool(lambda: train(config, **mode) and None)
        except SystemExit as end:
            status = end.code
        if count is not None and operations is not None:
            count.write_text(str(operations.count))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def wait(child: int, *, kill_after: float | None = None) -> int:
    """The exit status, negative for a signal; killed after so many seconds."""
    started = time.time()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        seconds = time.time() - started
        if seconds > 300 or (kill_after is not None and seconds > kill_after):
            os.killpg(child, signal.SIGKILL)
            kill_after = None
        time.sleep(0.002)


def outcome(run: Path) -> dict[str, str]:
    """What a finished run must have the same of, whatever happened on the way."""
    files = [*run.glob("last/*"), *run.glob("best/*"), *run.glob("scores_*.csv"), run / "log.jsonl"]
    found = {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }
    metrics = json.loads((run / "metrics.json").read_text())
    found["metrics.json"] = json.dumps({k: v for k, v in metrics.items() if k not in TIMES})
    found["files"] = str(sorted(path.name for path in run.iterdir()))
    names = [path.name for path in (run / "checkpoints").iterdir()]
    # best weights of an epoch that is trained again get a number behind their name
    found["checkpoints"] = str(sorted(re.sub(r"(best_\d+)_\d+", r"\1", name) for name in names))
    return found


def check_killed(run: Path) -> str | None:
    """What a kill has left that it must not, or None."""
    if os.path.lexists(run / "best") and find_fault(run / "best") is not None:
        return f"best: {find_fault(run / 'best')}"
    if not os.path.lexists(run / "last"):
        return None
    try:
        newest_complete(run)
    except InputError as error:
        return f"a checkpoint was complete, and none is: {error}"
    return None


def killed_and_resumed(config, log: Path, kills: list[dict], result: dict) -> str | None:
    """Train, killed by each of `kills` in turn (`at` an operation, or `kill_after` seconds), to its
    end; what was wrong on the way, or None.
    """
    run, mode = Path(config.run_dir), {}
    for number in range(len(kills) + 1):
        kill = kills[number] if number < len(kills) else {}
        child = start(config, log, at=kill.get("at"), **mode)
        status = wait(child, kill_after=kill.get("kill_after"))
        if status == 0:
            return None
        if status != -signal.SIGKILL:
            return f"exit code {status}: {log.read_text()[-800:]}"
        result["kills"] += 1
        fault = check_killed(run)
        if fault is not None:
            return fault
        try:
            newest_complete(run)
            mode = {"resume": True}
        except InputError:
            result["restarts"] += 1
            mode = {"overwrite": True}
    return "it never ended"


def campaign(config, folder: Path, *, operations: int, moments: int, seed: int) -> dict:
    """Kill runs of one experiment at `operations` of its operations (0: at all of them, negative:
    at none), and `moments` runs at random moments.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run, kept, log = folder / "run", folder / "whole", folder / "output.txt"
    config.run_dir = str(run)
    began = time.time()
    if wait(start(config, log, count=folder / "count")) != 0:
        raise SystemExit(f"the run itself fails: {log.read_text()[-2000:]}")
    seconds = time.time() - began
    expected = outcome(run)
    run.rename(kept)
    total = int((folder / "count").read_text())
    draw = random.Random(seed)
    places = list(range(1, total + 1))
    if operations:
        places = sorted(draw.sample(places, min(max(operations, 0), total)))
    plans = [[{"at": place}] for place in places]
    for _ in range(moments):
        count = draw.randint(1, MOST_KILLS)
        plans.append([{"kill_after": draw.random() * seconds * 1.05} for _ in range(count)])
    result = {"operations": total, "runs": 0, "kills": 0, "restarts": 0, "equal": 0, "faults": []}
    for plan in plans:
        shutil.rmtree(run, ignore_errors=True)
        log.unlink(missing_ok=True)
        result["runs"] += 1
        fault = killed_and_resumed(config, log, plan, result)
        if fault is None:
            found = outcome(run)
            differing = [key for key in expected | found if expected.get(key) != found.get(key)]
            fault = f"differs in {differing}" if differing else None
        if fault is None:
            result["equal"] += 1
        else:
            result["faults"].append(f"{plan}: {fault}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classification", action="store_true")
    parser.add_argument("--operations", type=int, default=0)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kind = ClassificationConfig if given.classification else Config
    print(
        json.dumps(
            campaign(
                kind.from_yaml(given.settings.read_text()),
                given.folder.resolve(),
                operations=given.operations,
                moments=given.moments,
                seed=given.seed,
            ),
            indent=1,
        )
    )
