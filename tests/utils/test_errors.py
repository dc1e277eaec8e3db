import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kanseg.utils.errors import InputError, run_tool


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def interrupted_import():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import") from None


def interrupted_check():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise InputError("scipy is missing") from None


@pytest.mark.parametrize("main", [interrupted_import, interrupted_check])
def test_ctrl_c_that_became_another_error_is_still_ctrl_c(main, capsys):
    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_with_a_message(capsys):
    def main():
        raise KeyboardInterrupt("--resume continues from run/last")

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == 130
    assert "continues from run/last" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda: 1 // 0)


def test_a_tool_in_the_background_goes_on_ignoring_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def main():
        signal.raise_signal(signal.SIGINT)
        return 3

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == 3


TOOLS = {
    "prints while it works": "for i in range(100_000): print('a line', i)",
    "prints at its end": "print('a line')",
    "ends by SystemExit, as --help": "print('a line'); raise SystemExit(0)",
}


@pytest.mark.parametrize("lines", TOOLS.values(), ids=TOOLS)
def test_a_tool_whose_reader_is_gone_ends_quietly(lines):
    """As in `kanseg formats | head -1`: exit code 128 + SIGPIPE, no message."""
    reader, writer = os.pipe()
    os.close(reader)
    code = f"from kanseg.utils.errors import run_tool\ndef main():\n {lines}\nrun_tool(main)"
    tool = [sys.executable, "-c", code]
    for unbuffered in ("", "1"):
        done = subprocess.run(
            tool,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (141, "")
    os.close(writer)


def test_a_broken_pipe_to_another_process_is_an_error(capfd):
    def main():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == 2
    assert "Broken pipe" in capfd.readouterr().err


def test_an_error_keeps_place_and_reason_apart_also_between_processes():
    error = pickle.loads(pickle.dumps(InputError("is empty", where=Path("a.png"), code="empty")))
    assert str(error) == "a.png: is empty"
    assert (error.reason, error.where, error.code) == ("is empty", Path("a.png"), "empty")
