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
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [line for language, code in BLOCKS if not language for line in code.splitlines() if line.startswith(("python", "accelerate"))]


@pytest.fixture
def user(config, tmp_path, monkeypatch):
    """A folder in which a quickstart has run, and in which a picture and weights of a layer of torch-conv-kan lie."""
    theirs = {"base_conv.0.weight": torch.ones(32, 16, 3, 3), "spline_conv.0.weight": torch.ones(32, 16 * 8, 3, 3), "prelus.0.weight": torch.ones(1)}
    torch.save(theirs, tmp_path / "theirs.pth")
    train(replace(config, run_dir=str(tmp_path / "runs" / "quickstart"), training=replace(config.training, epochs=1, panels=0)))
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("code", PYTHON)
def test_every_python_block_runs(user, code):
    exec(compile(code, "README.md", "exec"), {})


def test_there_are_python_blocks_and_commands():
    assert len(PYTHON) >= 2
    assert len(COMMANDS) >= 6


@cache
def help_of(tool):
    return subprocess.run([sys.executable, ROOT / tool, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if "tools/" in c])
def test_every_option_of_a_command_exists(command):
    words = shlex.split(command.split("&&")[-1])
    tool = next(i for i, word in enumerate(words) if word.startswith("tools/"))
    listed = help_of(words[tool])
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


def test_changelog_has_the_version():
    assert f"## {kanseg.__version__}" in (ROOT / "CHANGELOG.md").read_text()
