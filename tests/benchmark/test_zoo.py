import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import kanseg
from kanseg.benchmark import zoo_rows, zoo_table
from kanseg.encoders import ENCODERS
from kanseg.models import CLASSIFIERS, MODELS
from kanseg.models.operations import multiply_adds, num_parameters, saved_bytes
from kanseg.utils.errors import InputError

ROOT = Path(__file__).parents[2]


def test_a_row_has_what_the_network_has():
    (row,) = (row for row in zoo_rows(["unet"], ["none"], 32) if row["kind"] == "model")
    model = kanseg.create_model("unet", basis="none")
    x = torch.randn(1, 3, 32, 32)
    assert row["parameters"] == num_parameters(model) == sum(row["parts"].values())
    assert row["multiply_adds"] == multiply_adds(model, x.shape)
    assert row["functions"] == 0
    assert (
        row["saved_mib"]
        == saved_bytes(lambda: model.train()(x), [*model.parameters(), *model.buffers()]) / 2**20
    )


def test_every_model_and_encoder_is_there(monkeypatch):
    """Whatever it returns: several maps, labels, both."""

    def odd(in_channels, classes, *, conv, stem, aux_params=None):
        net = nn.Sequential(
            nn.Conv2d(in_channels, 4, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()
        )
        net.register_forward_hook(lambda _, __, labels: (labels, [labels, labels]))
        return net

    monkeypatch.setattr(MODELS, "_objects", {"unet": MODELS["unet"], "odd": odd})
    monkeypatch.setattr(ENCODERS, "_objects", {"unet": ENCODERS["unet"]})
    monkeypatch.setattr(CLASSIFIERS, "_objects", {"kan": CLASSIFIERS["kan"]})
    rows = list(zoo_rows([], ["none"], 16))
    assert [(row["network"], row["kind"]) for row in rows] == [
        ("unet", "model"),
        ("odd", "model"),
        ("kan", "model"),
        ("unet", "encoder"),
    ]
    assert math.isnan(rows[1]["saved_mib"])  # its norm sees a single value
    assert rows[1]["parameters"] == 4 * 3 + 4 + 8
    lines = zoo_table(rows).splitlines()
    assert len(lines) == 6
    assert lines[3].endswith("- |")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["unett"], ["gram"], 8), "unknown model or encoder 'unett'; did you mean"),
        (([], ["grm"], 8), "unknown basis 'grm'"),
        (([], ["gram"], 0), "at least 1"),
    ],
)
def test_what_cannot_be_listed_is_an_input_error(arguments, message):
    with pytest.raises(InputError, match=message):
        list(zoo_rows(*arguments))


def test_the_command_and_the_page_that_it_wrote(tmp_path):
    command = [
        sys.executable,
        ROOT / "tools" / "benchmark.py",
        "zoo",
        "--names",
        "unet",
        "--size",
        "16",
        "--json",
        tmp_path / "zoo.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["kind"] for row in json.loads((tmp_path / "zoo.json").read_text())["rows"]] == [
        "model",
        "encoder",
    ]
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert "python tools/benchmark.py zoo" in page.split("|")[0]
    header = next(line for line in done.stdout.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.split("|")] == [
        cell.strip()
        for cell in next(line for line in page.splitlines() if line.startswith("|")).split("|")
    ]
