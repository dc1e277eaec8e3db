import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from commands import kanseg_command

import kanseg
from kanseg.benchmark import zoo_rows, zoo_table
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


def test_models_and_encoders_of_a_name_have_a_row_each():
    rows = list(zoo_rows(["unet", "kan"], ["none"], 16))
    assert [(row["network"], row["kind"]) for row in rows] == [
        ("unet", "model"),
        ("kan", "model"),
        ("unet", "encoder"),
    ]


def test_without_names_all_networks_are_measured():
    first = islice(zoo_rows([], ["none"], 64), 2)
    assert [row["network"] for row in first] == kanseg.list_models()[:2]


def test_memory_is_unknown_where_a_norm_sees_a_single_value():
    (row, _) = zoo_rows(["unet"], ["none"], 16)
    assert math.isnan(row["saved_mib"])
    assert row["parameters"] == num_parameters(kanseg.create_model("unet", basis="none"))
    assert zoo_table([row]).splitlines()[-1].endswith("- |")


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
    words = ["zoo", "--names", "unet", "--size", "16", "--json", tmp_path / "zoo.json"]
    done = kanseg_command("benchmark", *words)
    assert done.returncode == 0, done.stderr
    assert [row["kind"] for row in json.loads((tmp_path / "zoo.json").read_text())["rows"]] == [
        "model",
        "encoder",
    ]
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert "kanseg benchmark zoo" in page.split("|")[0]
    header = next(line for line in done.stdout.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.split("|")] == [
        cell.strip()
        for cell in next(line for line in page.splitlines() if line.startswith("|")).split("|")
    ]
