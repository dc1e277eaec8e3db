import re
from pathlib import Path

import pytest
import torch
from torch import nn

from kanseg.bases import BASES
from kanseg.benchmark import LayerCase, Setting, layer_rows, layer_table
from kanseg.benchmark.layers import (
    HEADER,
    HEADER_ORIGINAL,
    SHARED_TARGETS,
    Candidate,
    functions_per_channel,
)
from kanseg.layers import KANConv2d
from kanseg.utils.errors import InputError

SPEED = (Path(__file__).parents[2] / "docs/speed.md").read_text(encoding="utf-8")
TINY, ONCE = LayerCase(size=8, batch=1), Setting(rounds=2, shortest=1.0)


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


@pytest.mark.parametrize("basis", ["gram", "rbf"])
def test_shared_functions_are_counted_like_those_of_edges(basis):
    shared, edges = (KANConv2d(4, 4, 3, basis=basis, share=share) for share in ("channel", "edge"))
    assert functions_per_channel(shared) == functions_per_channel(edges)
    bare = KANConv2d(4, 4, 3, basis=basis, share="channel", activation=None)
    assert functions_per_channel(bare) == functions_per_channel(edges) - 1


@pytest.mark.parametrize("share", ["channel", "layer", 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_limit_of_shared_functions_is_the_plain_layer(share, groups):
    case = LayerCase(groups=groups, share=share)
    limit, x = case.limit(4, n=5), torch.randn(2, 4, 6, 6)
    layer = case.layer("gram", 4)  # its functions start as SiLU
    limit[0].load_state_dict(layer.base_conv.state_dict())
    torch.testing.assert_close(limit(x), layer(x))


@pytest.mark.parametrize("share", ["channel", "layer"])
def test_shared_functions_may_keep_what_the_plain_layer_keeps(share):
    case = LayerCase(size=32, batch=1, share=share)
    (row,) = rows(["gram"], case=case)
    assert row["reach"] == [None, None, 3.0]  # inputs of the convolution, norm and SiLU
    assert row["met"] is True
    kept = Candidate(case.limit(4, n=4), torch.randn(1, 4, 32, 32, requires_grad=True)).saved(ONCE)
    assert row["saved_ratio"] == pytest.approx(kept, abs=0.1)  # and a few coefficients
    assert "nn.SiLU" in case.explained
    assert "expanded" not in case.explained


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
        setting=Setting(dtype="bfloat16", rounds=1, shortest=1.0),
    )
    assert row["saved_ratio"] < 3  # the output of the convolution is half as large


def test_what_is_to_be_reached_holds_for_the_stated_case_only():
    def targets(basis, channels, case=LayerCase(), setting=ONCE, compiled=False):  # noqa: B008
        return case.targets(basis, channels, setting, compiled)

    nothing = (None, None)
    assert targets("bspline", 32) == (1.5, 1.4)
    assert targets("bspline", 64, compiled=True) == (1.1, 1.1)
    assert targets("gram", 64, LayerCase(groups=16)) == (1.3, 1.3)
    assert targets("gram", 32, LayerCase(groups=16)) == nothing
    assert targets("bspline", 64, LayerCase(size=32)) == nothing
    assert targets("bspline", 64, setting=Setting(dtype="bfloat16")) == nothing
    shared = LayerCase(share="channel")
    assert targets("fourier", 32, shared) == (1.15, 1.2)
    assert targets("wavelet", 64, shared) == (1.15, 1.2)
    assert targets("gram", 64, LayerCase(share=4), compiled=True) == (1.08, 1.12)
    assert targets("gram", 64, LayerCase(share="layer", groups=16)) == nothing
    assert targets("gram", 16, shared) == nothing
    assert (LayerCase().saved_target(1.0), shared.saved_target(2.96)) == (4.0, 3.0)


def test_every_basis_of_shared_functions_has_something_to_reach():
    assert set(SHARED_TARGETS) == set(BASES)


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


def test_the_table_of_the_docs_is_the_one_that_is_printed():
    cells = [cell.strip() for cell in re.search(r"\|(.*)\|", SPEED)[1].split("|")]
    assert cells == [*HEADER, *HEADER_ORIGINAL]
