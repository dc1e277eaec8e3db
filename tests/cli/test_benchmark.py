import json

import pytest
from commands import kanseg_command

TINY = [
    "layers",
    "--channels",
    "4",
    "--size",
    "8",
    "--batch",
    "1",
    "--bases",
    "gram",
    "--rounds",
    "1",
]


def test_a_tiny_table_and_its_figures(tmp_path):
    done = kanseg_command("benchmark", *TINY, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    assert "| basis |" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["environment"] in done.stdout
    assert [(row["basis"], row["channels"], row["functions"]) for row in figures["rows"]] == [
        ("gram", 4, 4)
    ]
    assert figures["arguments"]["rounds"] == 1


def test_functions_are_shared_by_name_or_by_number(tmp_path):
    done = kanseg_command("benchmark", *TINY, "--share", "2", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    assert "share=2" in done.stdout
    assert "nn.SiLU" in done.stdout
    assert json.loads((tmp_path / "figures.json").read_text())["arguments"]["share"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "."], "expected a checkout of torch-conv-kan"),
        (["--json", "."], "--json: . cannot be written"),
        (["--size", "1"], "more than one pixel"),
        (["--share", "nobody"], "share must be"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = kanseg_command("benchmark", *TINY, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
