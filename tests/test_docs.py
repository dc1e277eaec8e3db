"""What the README shows is what the project does."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kanseg
from kanseg.training.run import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
PAGES = ("README.md", "data/README.md", "docs/tutorial.md")


def blocks(text):
    """(language, text) of everything between fences."""
    return re.findall(r"```(\w*)\n(.*?)```", text, flags=re.DOTALL)


def commands(text):
    """Command lines that start a program of ours or of Python's."""
    return [
        line
        for language, code in blocks(text)
        if not language
        for line in code.splitlines()
        if line.startswith(("python", "accelerate", "torchrun"))
    ]


PYTHON = [code for language, code in blocks(README) if language == "python"]
COMMANDS = {page: commands((ROOT / page).read_text(encoding="utf-8")) for page in PAGES}


@pytest.fixture
def user(config, tmp_path, monkeypatch):
    """A folder in which a quickstart has run, and in which an image and weights of a layer of
    torch-conv-kan lie.
    """
    theirs = {
        "base_conv.0.weight": torch.ones(32, 16, 3, 3),
        "spline_conv.0.weight": torch.ones(32, 16 * 8, 3, 3),
        "prelus.0.weight": torch.ones(1),
    }
    torch.save(theirs, tmp_path / "theirs.pth")
    train(
        replace(
            config,
            run_dir=str(tmp_path / "runs" / "quickstart"),
            training=replace(config.training, epochs=1, panels=0),
        )
    )
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("code", PYTHON)
def test_every_python_block_runs(user, code):
    exec(compile(code, "README.md", "exec"), {})


def test_there_are_python_blocks_and_commands():
    assert len(PYTHON) >= 2
    assert all(len(found) >= 2 for found in COMMANDS.values())


@cache
def help_of(tool):
    return subprocess.run(
        [sys.executable, ROOT / tool, "--help"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    "command", [c for found in COMMANDS.values() for c in found if "tools/" in c]
)
def test_every_option_of_a_command_exists(command):
    words = shlex.split(command.split("&&")[-1])
    tool = next(i for i, word in enumerate(words) if word.startswith("tools/"))
    listed = help_of(words[tool])
    if words[tool] in (
        "tools/search.py",
        "tools/compare.py",
    ):  # which take every setting of a training as well
        listed += help_of("tools/train_seg.py") + help_of("tools/train_cls.py")
    for option in (word for word in words[tool + 1 :] if word.startswith("--")):
        assert option in listed
    for config in (word for word in words if word.startswith("configs/")):
        assert (ROOT / config).is_file()


def test_every_basis_and_model_is_named():
    for name in [*kanseg.list_bases(), "ukanet_18/34/50", "unet"]:
        assert f"`{name}`" in README or name in README


def test_the_file_map_lists_every_part():
    parts = {p.name for p in (ROOT / "kanseg").iterdir() if p.name[0] not in "_."}
    lines = README.split("## Where things are")[1]
    assert all(part in lines for part in parts)


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists()


def test_every_tool_is_shown():
    shown = " ".join(COMMANDS["README.md"])
    assert [
        tool.name for tool in (ROOT / "tools").glob("*.py") if f"tools/{tool.name}" not in shown
    ] == []


def test_the_chinese_page_has_the_same_commands_in_the_same_order():
    assert commands(CHINESE) == commands(README)


def test_the_chinese_page_has_the_same_code_but_for_comments():
    def bare(text):
        return [
            re.sub(r"\s*#.*", "", code) for language, code in blocks(text) if language == "python"
        ]

    assert bare(CHINESE) == bare(README)


def test_the_chinese_page_has_the_same_tables():
    def figures(text):
        return [
            re.findall(r"[\d.,]*\d", line) for line in text.splitlines() if line.startswith("|")
        ]

    assert figures(CHINESE) == figures(README)


def test_changelog_has_the_version():
    assert f"## {kanseg.__version__}" in (ROOT / "CHANGELOG.md").read_text()
