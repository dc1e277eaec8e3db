"""Run a command of kanseg in the process of the test: to import PyTorch again takes seconds."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from kanseg.cli.main import run
from kanseg.utils.errors import run_tool


@dataclass
class Done:
    """What a command left, named as by `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


def kanseg_command(verb, *arguments):
    """Run `kanseg VERB ARGUMENTS` and return its exit code and its output."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error), pytest.raises(SystemExit) as stop:
        run_tool(lambda: run(verb, [str(word) for word in arguments]))
    return Done(stop.value.code, out.getvalue(), error.getvalue())
