import re
from pathlib import Path

import pytest
import torch
from torch import nn

from kanseg.benchmark import LayerCase, Setting, layer_rows, layer_table
from kanseg.benchmark.layers import HEADER, HEADER_ORIGINAL, Candidate, functions_per_channel
from kanseg.errors import InputError
from kanseg.layers import KANConv2d

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TINY, ONCE = LayerCase(size=8, batch=1), Setting(rounds=2)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr("kanseg.benchmark.measure.SHORTEST_MS", 1.0)


def rows(bases, *arguments, case=TINY, setting=ONCE):
    return list(layer_rows(bases, [4], case, setting, *arguments))


@pytest.mark.parametrize(
    ("basis", "n"),
    [
        ("gram", 4),
        ("legendre", 4),
        ("bernstein", 5),
        ("bspline", 9),
        ("rbf", 9),
        ("relu", 9),
        ("wavelet", 5),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_functions_that_are_not_constant_and_the_base_branch(basis, n, groups):
    assert functions_per_channel(KANConv2d(4, 4, 3, groups=groups, basis=basis)) == n
    assert (
        functions_per_channel(KANConv2d(4, 4, 3, groups=groups, basis=basis, base_activation=None))
        == n - 1
    )


def test_a_row_has_the_times_of_the_limit_and_ours():
    (row,) = rows(["gram"])
    assert (row["basis"], row["compiled"], row["channels"], row["functions"]) == (
        "gram",
        False,
        4,
        4,
    )
    for phase in ("forward", "forward_backward"):
        assert row[f"limit_{phase}_ms"] > 0
        assert row[f"{phase}_ms"] > 0
        assert row[f"{phase}_spread"] >= 0
    assert row["saved_ratio"] == pytest.approx(
        3, abs=0.2
    )  # input, the norm's and the activation's; and the norm's statistics
    assert row["reach"] == [None, None, 4.0]
    assert row["met"] is True
    assert not any(key.startswith("original_") for key in row)


def test_ratios_come_from_the_rounds(monkeypatch):
    times = {"limit": [1.0, 10.0, 2.0], "eager": [1.0, 20.0, 6.0]}
    monkeypatch.setattr(
        "kanseg.benchmark.layers.interleaved",
        lambda steps, setting, tidy: {name: times[name] for name in steps},
    )
    (row,) = rows(["gram"])
    assert (row["forward_ratio"], row["limit_forward_ms"], row["forward_ms"]) == (2.0, 2.0, 6.0)


def test_beside_the_original(original):
    found = rows(["gram", "bernstein"], original)
    assert (
        found[0]["original_saved_ratio"] == 1
    )  # what exp gave is what its convolution reads: one storage
    assert found[0]["original_forward_backward_ratio"] > 0
    assert found[0]["original_forward_backward_error"] is None
    assert "inplace operation" in found[1]["original_forward_backward_error"]
    lines = layer_table(found, original=True).splitlines()
    assert [line.count("|") for line in lines] == [13] * 4
    assert "fails" in lines[3]


def test_the_limit_and_the_layer_get_gradients_down_to_their_input():
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    module = nn.Conv2d(4, 4, 3)
    wanted = []
    module.register_full_backward_hook(
        lambda _, inputs, outputs: wanted.append(inputs[0] is not None)
    )
    Candidate(module, x).step(ONCE, train=True)()
    assert wanted == [True]
    assert x.grad is None
    module.bias.requires_grad_(False)
    Candidate(module, x).step(ONCE, train=True)()
    Candidate(module, x).step(ONCE, train=False)()
    assert not module.training


def test_half_precision_and_groups():
    (row,) = rows(
        ["gram"],
        case=LayerCase(size=8, batch=1, groups=2),
        setting=Setting(dtype="bfloat16", rounds=1),
    )
    assert row["saved_ratio"] < 3  # the output of the convolution is half as large


def test_what_is_to_be_reached_holds_for_the_stated_case_only():
    assert LayerCase().reach("bspline", 32, ONCE, compiled=False) == (1.5, 1.4, 4.0)
    assert LayerCase().reach("bspline", 64, ONCE, compiled=True) == (1.1, 1.1, 4.0)
    assert LayerCase(groups=16).reach("gram", 64, ONCE, compiled=False) == (1.3, 1.3, 4.0)
    assert LayerCase(size=32).reach("bspline", 64, ONCE, compiled=False) == (None, None, 4.0)
    assert LayerCase().reach("bspline", 64, Setting(dtype="bfloat16"), compiled=False) == (
        None,
        None,
        4.0,
    )


@pytest.mark.parametrize(
    ("bases", "case", "message"),
    [
        (["grm"], TINY, "unknown basis 'grm'"),
        (["gram"], LayerCase(groups=3), "divisible by groups"),
        (["gram"], LayerCase(size=0), "at least 1"),
        (["gram"], LayerCase(share="nobody"), "share"),
    ],
)
def test_what_cannot_be_measured_is_an_input_error(bases, case, message):
    with pytest.raises(InputError, match=message):
        rows(bases, case=case)


def test_the_table_of_the_readme_is_the_one_that_is_printed():
    section = README.split("## How fast")[1]
    cells = [cell.strip() for cell in re.search(r"\|(.*)\|", section)[1].split("|")]
    assert cells == [*HEADER, *HEADER_ORIGINAL]
