"""Every tool answers `--help` and a wrong option at once, without loading torch."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = sorted((Path(__file__).parents[2] / "tools").glob("*.py"))
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("torch" in sys.modules, "numpy" in sys.modules)
"""


def run(tool, *words):
    return subprocess.run(
        [sys.executable, "-c", RUN, str(tool), *words], capture_output=True, text=True
    )


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_help_does_not_load_torch(tool):
    done = run(tool, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {tool.name}")
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_a_wrong_option_is_one_line_and_does_not_load_torch(tool):
    table = ["zoo"] if tool.stem == "benchmark" else []
    done = run(tool, *table, "--nonsense", "1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nonsense" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout.splitlines()[-1] == "False False"


def test_the_options_of_a_study_are_listed_without_loading_torch():
    (tool,) = (tool for tool in TOOLS if tool.stem == "compare")
    done = run(tool, "--study", "study.yaml", "--help")
    assert done.returncode == 0, done.stderr
    assert "--discard_runs" in done.stdout
    assert done.stdout.splitlines()[-1] == "False False"
