import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"
TINY = ["layers", "--channels", "4", "--size", "8", "--batch", "1", "--bases", "gram", "--rounds", "1"]


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)


def test_a_tiny_table_and_its_figures(tmp_path):
    done = run(*TINY, "--json", tmp_path / "new" / "figures.json")
    assert done.returncode == 0, done.stderr
    assert "| basis |" in done.stdout
    figures = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert figures["machine"] in done.stdout
    assert [(row["basis"], row["channels"], row["functions"]) for row in figures["rows"]] == [("gram", 4, 4)]
    assert figures["arguments"]["rounds"] == 1


def test_a_wrong_argument_is_one_line_and_exit_code_2(tmp_path):
    done = run(*TINY, "--against", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "expected a checkout of torch-conv-kan" in done.stderr
