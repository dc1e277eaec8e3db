"""Networks whose learned activations are constants, for graphs of few operations."""

import copy

import pytest
import torch
from torch import nn

import kanseg
from kanseg.export.activations import FrozenActivation, with_frozen_activations
from kanseg.layers.activation import KANActivation
from kanseg.layers.regularization import kan_layers


def learned(basis="gram", **options):
    net = kanseg.create_model("unet", basis=basis, width=4, depth=1, **options)
    for layer in kan_layers(net):
        nn.init.normal_(layer.functions_weight, std=0.3)
    return net


@pytest.mark.parametrize(
    ("basis", "options"),
    [
        ("gram", {}),
        ("gram", {"learnable": True}),
        ("chebyshev", {"degree": 2, "domain": "sigmoid", "share": "layer"}),
        ("legendre", {"position": "before_conv"}),
        ("bernstein", {"activation": "prelu"}),
        ("bspline", {}),
        ("bspline", {"grid_size": 9, "share": 2}),
        ("rbf", {"activation": None}),
        ("hermite", {"share": "layer"}),
    ],
)
def test_they_compute_the_same(basis, options):
    net = learned(basis, **options).eval()
    frozen = with_frozen_activations(net)
    assert not any(isinstance(module, KANActivation) for module in frozen.modules())
    x = 2 * torch.randn(2, 3, 17, 20)
    expected = net(x)
    torch.testing.assert_close(frozen(x), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("basis", ["gram", "bspline"])
def test_a_network_in_half_precision_can_be_frozen(basis):
    net = learned(basis).eval().bfloat16()
    x = torch.randn(1, 3, 9, 9)
    expected = net.float()(x.bfloat16().float())
    y = with_frozen_activations(net.bfloat16())(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)


def test_the_network_itself_stays_as_it_was():
    net = learned("bspline").train()
    before = copy.deepcopy(net.state_dict())
    frozen = with_frozen_activations(net)
    assert net.training
    assert not frozen.training
    assert not any(isinstance(module, FrozenActivation) for module in net.modules())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    for layer in kan_layers(net):  # what is trained on does not reach the copy
        nn.init.zeros_(layer.functions_weight)
    x = torch.randn(1, 3, 9, 9)
    assert not torch.allclose(frozen(x), net.eval()(x))


@pytest.mark.parametrize("basis", ["rational", "fourier"])
def test_what_is_no_polynomial_or_table_is_left_as_it_is(basis):
    net = learned(basis).eval()
    frozen = with_frozen_activations(net)
    assert not any(isinstance(module, FrozenActivation) for module in frozen.modules())
    x = torch.randn(1, 3, 9, 9)
    torch.testing.assert_close(frozen(x), net(x), rtol=0, atol=0)


def test_a_network_without_functions_is_itself():
    for options in ({"basis": "none"}, {"share": "edge"}):
        plain = kanseg.create_model("unet", width=4, depth=1, **options)
        assert with_frozen_activations(plain) is plain


ARITHMETIC = [
    "_native_batch_norm_legit_no_training",
    *("abs", "add", "clamp", "cos", "div", "exp", "floor", "index_select", "mm", "mul", "neg"),
    *("pow", "reciprocal", "relu", "sigmoid", "sin", "sub", "where"),
]


def operations(module, x):
    """Number of operations that compute something."""
    program = torch.export.export(module.eval(), (x,)).run_decompositions()
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return sum(call.removeprefix("aten.").split(".")[0] in ARITHMETIC for call in calls)


@pytest.mark.parametrize(
    ("basis", "most"),
    [
        ("gram", 7),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("bspline", 20), ("rbf", 20)]),
    ],
)
def test_a_graph_has_few_operations(basis, most):
    """And as many with more functions."""
    x = torch.randn(1, 4, 6, 5)
    few = operations(with_frozen_activations(nn.Sequential(KANActivation(4, basis=basis))), x)
    assert few <= most
    assert few < operations(KANActivation(4, basis=basis), x)


@pytest.mark.parametrize("basis", ["bspline", "rbf"])
def test_a_finer_grid_makes_no_larger_graph(basis):
    x = torch.randn(1, 4, 6, 5)
    coarse, fine = (
        operations(with_frozen_activations(nn.Sequential(activation)), x)
        for activation in (
            KANActivation(4, basis=basis, grid_size=4),
            KANActivation(4, basis=basis, grid_size=12),
        )
    )
    assert coarse == fine


@pytest.mark.parametrize("basis", ["gram", "bspline"])
def test_torch_writes_onnx_of_learned_activations(basis, tmp_path):
    """Without `kanseg export`, as from another project."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    learned = KANActivation(4, basis=basis)
    nn.init.normal_(learned.weight)
    x = torch.randn(1, 4, 6, 5)
    path = str(tmp_path / "activation.onnx")
    torch.onnx.export(with_frozen_activations(learned).eval(), (x,), path, dynamo=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [y] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), learned(x), rtol=1e-3, atol=1e-4)
