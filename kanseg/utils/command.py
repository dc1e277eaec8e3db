"""The command by which the user started kanseg, for the messages that name one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# The verbs of the command `kanseg`, and the script of a checkout that does the same.
SCRIPTS = {
    "train": "train_seg.py",
    "classify": "train_cls.py",
    "check": "check_data.py",
    "predict": "predict.py",
    "evaluate": "evaluate.py",
    "export": "export.py",
    "prune": None,
    "snap": None,
    "compare": "compare.py",
    "search": "search.py",
    "results": "results.py",
    "profile": "profile_model.py",
    "benchmark": "benchmark.py",
    "convert": "convert.py",
    "explain": None,
    "formats": None,
    "doctor": None,
}
MODULE = "python -m kanseg"


def command(verb: str) -> str:
    """Return `kanseg VERB`, or `python tools/SCRIPT` for a user who started a script of tools/."""
    started = sys.argv[0]
    if started.startswith(MODULE):
        return f"{MODULE} {verb}"
    program = Path(started)
    script = SCRIPTS[verb]
    if program.name in SCRIPTS.values() and program.parent.name == "tools" and script:
        return f"python {program.with_name(script)}"
    return f"kanseg {verb}"


def with_command(text: str) -> str:
    """Replace `kanseg VERB` in a text by the command of this user."""
    verbs = "|".join(SCRIPTS)
    return re.sub(rf"\bkanseg ({verbs})\b", lambda match: command(match[1]), text)
