import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from kanseg.bases import BASES, create_basis
from kanseg.layers import KANConv1d, KANConv2d, KANConv3d, KANLinear
from kanseg.layers.fused import autograd, constant
from kanseg.layers.fused.constant import constant_output
from kanseg.layers.fused.functional import activation_convolution, basis_convolution, basis_mixture
from kanseg.layers.fused.linear_ops import ConvOp
from kanseg.models.operations import saved_bytes

FUNCTIONS = (
    [(name, {}) for name in BASES]
    + [("wavelet", {"wavelet": w}) for w in ("meyer", "shannon")]
    + [("gram", {"learnable": True})]
)
FUNCTIONS += [
    ("rbf", {"domain": "instance_norm"}),
    ("bspline", {"spline_order": 0}),
    ("legendre", {"degree": 0}),
    ("legendre", {"degree": 1}),
]
FUNCTIONS += [
    ("hermite", {"kind": "probabilist"}),
    ("hermite", {"degree": 0}),
    ("rational", {"degree": 2, "denominator_degree": 3, "num_groups": 1}),
]
functions = pytest.mark.parametrize(("name", "options"), FUNCTIONS, ids=str)
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.fixture(params=[1, 1 << 30], ids=["sample by sample", "all at once"])
def chunks(request, monkeypatch):
    monkeypatch.setitem(autograd.CHUNK_BYTES, "cpu", request.param)
    monkeypatch.setattr(constant, "MIN_ENTRIES", 0 if request.param == 1 else 1 << 30)


def both(x, basis, conv, upstream=None):
    """Output and all gradients of the fused step and of conv(basis(x))."""
    results = []
    for function in (
        lambda x: basis_convolution(x, basis, conv),
        lambda x: conv(basis(x).flatten(1, 2)),
    ):
        x = x.detach().requires_grad_()
        y = function(x)
        upstream = torch.randn_like(y) if upstream is None else upstream
        inputs = [x, conv.weight, *basis.parameters()]
        results.append([y.detach(), *torch.autograd.grad(y, inputs, upstream, allow_unused=True)])
    return results


@functions
@pytest.mark.parametrize("groups", [1, 2])
def test_output_and_gradients_are_those_of_the_plain_composition(name, options, groups, chunks):
    basis = create_basis(name, 4, **options).double()
    conv = nn.Conv2d(
        4 * basis.num_functions, 6, 3, stride=2, padding=1, dilation=2, groups=groups, bias=False
    ).double()
    ours, theirs = both(torch.randn(3, 4, 9, 8).double(), basis, conv)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            a, torch.zeros_like(a) if b is None else b, rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("name", ["gram", "bspline"])
def test_every_border_is_that_of_the_plain_composition(name, mode, ndim, chunks):
    basis = create_basis(name, 2).double()
    conv = CONVS[ndim](
        2 * basis.num_functions, 3, 3, padding=1, padding_mode=mode, bias=False
    ).double()
    ours, theirs = both(torch.randn(2, 2, *[5] * ndim).double(), basis, conv)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("kernel", "padding"),
    [(3, "same"), (4, "same"), ((3, 5), "same"), (3, "valid"), ((1, 3), (0, 2))],
)
def test_paddings_by_name_and_by_axis(kernel, padding):
    basis = create_basis("legendre", 2)
    conv = nn.Conv2d(2 * basis.num_functions, 3, kernel, padding=padding, bias=False)
    for a, b in zip(*both(torch.randn(2, 2, 8, 7), basis, conv), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@functions
def test_a_matrix_in_place_of_the_convolution(name, options, chunks):
    if options.get("domain") == "instance_norm":
        options = {"domain": "layer_norm"}
    basis = create_basis(name, 4, **options).double()
    linear = nn.Linear(4 * basis.num_functions, 3, bias=False).double()
    for a, b in zip(*both(torch.randn(5, 4).double(), basis, linear), strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


@functions
def test_stated_derivatives_are_those_of_autograd(name, options):
    basis = create_basis(name, 3, **options).double()
    u = (torch.rand(2, 3, 7, dtype=torch.float64) * 2 - 1 + 0.0137).requires_grad_()
    for value, slope in basis.values_and_derivatives(u, derivatives=True):
        found = (
            torch.autograd.grad(value.expand_as(u).sum(), u, allow_unused=True, retain_graph=True)[
                0
            ]
            if value.requires_grad
            else None
        )
        torch.testing.assert_close(
            slope.expand_as(u), torch.zeros_like(u) if found is None else found
        )


@functions
@pytest.mark.parametrize("groups", [1, 4])
def test_backward_keeps_no_more_than_four_times_the_input(name, options, groups):
    layer = KANConv2d(16, 16, 3, padding=1, groups=groups, basis=name, **options)
    x = torch.randn(4, 16, 32, 32, requires_grad=True)
    limit = 4.05 if "domain" in options else 3.05
    assert saved_bytes(lambda: layer(x), layer.parameters()) <= limit * x.numel() * 4


def test_the_values_exist_for_a_few_samples_only(monkeypatch):
    x = torch.empty(5, 4, 6, 6)
    monkeypatch.setitem(autograd.CHUNK_BYTES, "cpu", 2 * 4 * 8 * 36 * 4)
    chunks = autograd.sample_chunks(x, bytes_per_sample=4 * 8 * 36 * 4)
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 2), (2, 4), (4, 5)]


@functions
@pytest.mark.slow_except("gram-{}", "bspline-{}", "wavelet-{}", "rational-{}", "relu-{}")
def test_second_derivatives(name, options):
    basis = create_basis(name, 2, **options).double()
    conv = nn.Conv1d(2 * basis.num_functions, 2, 3, padding=1, bias=False).double()
    x = (torch.rand(2, 2, 4, dtype=torch.float64) * 0.8 + 0.11).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x, w: basis_convolution(x, basis, conv) * w,
        (x, torch.randn(2, 2, 4).double().requires_grad_()),
    )


@functions
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_functions_are_float32_and_the_convolution_is_half(name, options, dtype):
    layer = KANConv2d(4, 6, 3, padding=1, basis=name, norm=None, activation=None, **options)
    x = torch.randn(3, 4, 8, 8, requires_grad=True)
    exact = layer(x)
    (expected,) = torch.autograd.grad(exact.sum(), x)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
    (found,) = torch.autograd.grad(y.sum(), x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["gram", "bspline", "wavelet"])
def test_a_layer_of_half_precision_computes_in_half_and_float32(name):
    layer = KANConv2d(4, 6, 3, padding=1, basis=name, norm=None)
    x = torch.randn(2, 4, 8, 8)
    half = copy.deepcopy(layer).bfloat16()
    y = half(x.bfloat16())
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["gram", "bspline", "wavelet"])
def test_channels_last_comes_out_as_it_goes_in(name, chunks):
    layer = KANConv2d(4, 6, 3, padding=1, basis=name).eval()
    x = torch.randn(3, 4, 8, 8)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x))


@functions
@pytest.mark.slow_except("gram-{}")
def test_compilers_see_one_graph(name, options):
    layer = KANConv2d(4, 6, 3, padding=1, basis=name, inner_channels=4, **options)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn_like(y)
    for a, b in zip(
        torch.autograd.grad(y, x, upstream), torch.autograd.grad(expected, x, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    torch.compiler.reset()


def test_a_compiled_layer_obeys_autocast():
    layer = KANConv2d(4, 6, 3, padding=1, basis="gram", norm=None).eval()
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
        expected = layer(x)
    torch.testing.assert_close(compiled, expected, rtol=0.02, atol=0.02)
    torch.compiler.reset()


@functions
@pytest.mark.parametrize("share", ["edge", "channel", "layer"])
@pytest.mark.slow_except("gram-{}")
def test_exported_programs_compute_the_same(name, options, share):
    layer = KANConv2d(4, 6, 3, padding=1, basis=name, share=share, **options).eval()
    x = torch.randn(2, 4, 8, 8)
    program = torch.export.export(
        layer,
        (x,),
        dynamic_shapes={
            "x": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
        },
    )
    other = torch.randn(3, 4, 10, 6)
    torch.testing.assert_close(program.module()(other), layer(other), rtol=1e-4, atol=1e-5)


@functions
@pytest.mark.slow_except("gram-{}")
def test_onnx_computes_the_same(name, options, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra 'export'")
    pytest.importorskip("onnxscript", reason="the extra 'export'")
    layer = KANConv2d(4, 6, 3, padding=1, basis=name, **options).eval()
    x = torch.randn(2, 4, 8, 8)
    torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "layer.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), layer(x).detach(), rtol=1e-3, atol=1e-4)


@functions
@pytest.mark.slow_except("gram-{}", "bspline-{}", "wavelet-{}", "rational-{}")
def test_many_gradients_at_a_time_are_those_one_by_one(name, options):
    layer = KANConv2d(2, 3, 3, padding=1, basis=name, **options).eval()
    x = torch.randn(1, 2, 5, 5)
    one_by_one = torch.autograd.functional.jacobian(layer, x)
    torch.testing.assert_close(
        torch.autograd.functional.jacobian(layer, x, vectorize=True), one_by_one
    )


@functions
def test_torch_func_transforms_go_through(name, options):
    layer = KANConv2d(2, 3, 3, padding=1, basis=name, norm=None, **options).eval()
    x, tangent = torch.randn(4, 2, 2, 6, 6), torch.randn(2, 2, 6, 6)
    torch.testing.assert_close(torch.func.vmap(layer)(x), torch.stack([layer(each) for each in x]))
    _, directional = torch.func.jvp(layer, (x[0],), (tangent,))
    gradient = torch.func.grad(lambda x: (layer(x) * directional).sum())(x[0])
    torch.testing.assert_close(
        (gradient * tangent).sum(), directional.square().sum(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("size", [(5, 1), (7, 9), (16, 31)])
@pytest.mark.parametrize(
    "geometry",
    [
        {"padding": 0, "kernel": 1},
        {"padding": 1},
        {"padding": (3, 0)},
        {"padding": 4, "stride": 2},
        {"padding": 2, "stride": 3},
    ],
)
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_constant_function_adds_a_map_of_the_border(size, geometry, dilation):
    kernel = (geometry.get("kernel", 3), 1)
    padding = (
        geometry["padding"] if isinstance(geometry["padding"], tuple) else (geometry["padding"], 1)
    )
    if size[0] + 2 * padding[0] < dilation * (kernel[0] - 1) + 1:
        return
    stride = (geometry.get("stride", 1), 2)
    op = ConvOp(stride, padding, (dilation, 1), 2)
    weight = torch.randn(4, 3, *kernel, dtype=torch.float64, requires_grad=True)
    ones = torch.ones((2, 6, *size), dtype=torch.float64)
    expected = torch.conv2d(ones, weight, None, stride, padding, (dilation, 1), groups=2)
    upstream = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, weight, upstream)
    for y in (constant_output(op, weight, ones.shape), op.forward_ones(weight, ones.shape)):
        torch.testing.assert_close(y.expand_as(expected), expected)
        (grad,) = torch.autograd.grad(y.expand_as(expected), weight, upstream)
        torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.PReLU])
def test_second_derivatives_of_the_base_branch(activation):
    function, conv = activation().double(), nn.Conv1d(2, 2, 3, padding=1, bias=False).double()
    x = (torch.rand(2, 2, 4, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x, w: activation_convolution(x, function, conv) * w,
        (x, torch.randn(2, 2, 4).double().requires_grad_()),
    )


def test_a_mirrored_border_under_torch_func():
    layer = KANConv2d(2, 3, 3, padding=1, padding_mode="reflect", basis="gram", norm=None)
    x = torch.randn(4, 2, 2, 6, 6)
    torch.testing.assert_close(torch.func.vmap(layer)(x), torch.stack([layer(each) for each in x]))


def test_a_frozen_input_or_weight_gets_no_gradient():
    layer = KANConv2d(2, 3, 3, padding=1, basis="gram")
    layer(torch.randn(2, 2, 6, 6)).sum().backward()
    assert layer.basis_conv.weight.grad is not None
    layer.requires_grad_(False).zero_grad()
    x = torch.randn(2, 2, 6, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer.basis_conv.weight.grad is None
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("frozen", ["x", "parameters", "both"])
def test_frozen_parts_of_the_base_branch(frozen):
    function, conv = nn.PReLU(), nn.Conv2d(2, 3, 3, bias=False)
    function.requires_grad_(frozen == "x")
    x = torch.randn(2, 2, 6, 6, requires_grad=frozen == "parameters")
    y = activation_convolution(x, function, conv)
    expected = conv(function(x))
    inputs = [t for t in (x, conv.weight, *function.parameters()) if t.requires_grad]
    for create_graph in (False, True):
        ours = torch.autograd.grad(
            y.square().sum(), inputs, retain_graph=True, create_graph=create_graph
        )
        theirs = torch.autograd.grad(expected.square().sum(), inputs, retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
@pytest.mark.parametrize("domain", ["instance_norm", "layer_norm"])
def test_a_normalizing_map_does_not_see_the_border_that_padding_adds(mode, domain):
    basis = create_basis("legendre", 2, domain=domain)
    conv = nn.Conv2d(8, 3, 3, padding=2, padding_mode=mode, bias=False)
    for a, b in zip(*both(torch.randn(2, 2, 5, 6), basis, conv), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"basis": "wavelet"},
        {"basis": "gram", "learnable": True},
        {"basis": "rational"},
        {"base_activation": "prelu"},
    ],
    ids=str,
)
def test_gradients_under_functional_call_are_those_of_the_tensors_it_was_called_with(options):
    layer, other = (KANConv2d(2, 3, 3, norm=None, dtype=torch.float64, **options) for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    tensors = {
        name: value.detach().clone().requires_grad_() for name, value in other.named_parameters()
    }
    y = torch.func.functional_call(layer, tensors, (x,))
    expected = other(x)
    torch.testing.assert_close(y, expected)
    ours = torch.autograd.grad(y.square().sum(), [x, *tensors.values()])
    theirs = torch.autograd.grad(expected.square().sum(), [x, *other.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("basis", ["bspline", "rbf"])
def test_a_grid_moved_before_backward_is_no_wrong_gradient(basis):
    layer = KANLinear(2, 3, basis=basis)
    x = torch.randn(50, 2, requires_grad=True)
    y = layer(x)
    (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    layer.update_grid(3 * torch.randn(100, 2))
    try:
        (found,) = torch.autograd.grad(y.sum(), x)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        torch.testing.assert_close(found, expected)


def test_functions_refined_before_backward_are_an_error():
    layer = KANLinear(2, 3)
    y = layer(torch.randn(5, 2, requires_grad=True))
    layer.refine(10)
    with pytest.raises(RuntimeError, match="8 functions"):
        y.sum().backward()


def test_replicas_of_data_parallel_get_their_gradients():
    layer = KANConv2d(2, 3, 3, basis="wavelet", norm=None)
    replica = copy.copy(layer.basis)
    replica.__dict__ = {**layer.basis.__dict__, "_parameters": {}, "_buffers": {}}
    copies = {
        name: value.detach().clone().requires_grad_()
        for name, value in layer.basis.named_parameters()
    }
    replica.__dict__.update(copies, _former_parameters=copies)
    x = torch.randn(2, 2, 6, 6)
    basis_convolution(x, replica, layer.basis_conv).square().sum().backward()
    basis_convolution(x, layer.basis, layer.basis_conv).square().sum().backward()
    for name, value in layer.basis.named_parameters():
        torch.testing.assert_close(copies[name].grad, value.grad)


@pytest.mark.parametrize("part", ["basis_conv", "base_conv", "basis", "base_activation"])
def test_hooks_on_the_parts_are_called(part):
    layer = KANConv2d(2, 3, 3, basis="gram")
    called = []
    getattr(layer, part).register_forward_hook(lambda *_: called.append(part))
    layer(torch.randn(1, 2, 6, 6))
    assert called == [part]


def test_pruned_weights_are_the_ones_used():
    layer = KANConv2d(2, 3, 3, basis="gram", base_activation=None, norm=None, activation=None)
    prune.identity(layer.basis_conv, "weight")
    layer.basis_conv.weight_orig.data.zero_()
    assert (layer(torch.randn(1, 2, 6, 6)) == 0).all()


def test_half_precision_weights_collect_their_gradient_in_float32():
    layer = KANConv2d(2, 2, 1, norm=None, activation=None, base_activation=None).bfloat16()
    x = torch.randn(64, 2, 192, 192).bfloat16()
    upstream = torch.rand(64, 2, 192, 192).bfloat16()
    layer(x).backward(upstream)
    exact = copy.deepcopy(layer).float()
    exact.zero_grad()
    exact(x.float()).backward(upstream.float())
    error = (
        layer.basis_conv.weight.grad.float() - exact.basis_conv.weight.grad
    ).norm() / exact.basis_conv.weight.grad.norm()
    assert error < 0.01


@pytest.mark.parametrize(
    "activation", [nn.SiLU, nn.GELU, nn.PReLU, nn.Identity, lambda: nn.Dropout(0.0)]
)
def test_activation_and_convolution(activation):
    function, conv = activation(), nn.Conv2d(3, 4, 3, padding=1, bias=False)
    x = torch.randn(3, 3, 6, 6, requires_grad=True)
    inputs = [x, conv.weight, *function.parameters()]
    y, expected = activation_convolution(x, function, conv), conv(function(x))
    torch.testing.assert_close(y, expected)
    for a, b in zip(
        torch.autograd.grad(y.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_gate_multiplies_the_functions(chunks):
    basis = create_basis("gram", 3).double()
    conv = nn.Conv2d(12, 5, 3, padding=1, bias=False).double()
    dropout_mask = torch.randint(0, 3, (2, 3, 4)).double()
    x = torch.randn(2, 3, 6, 6).double().requires_grad_()
    y, expected = (
        basis_convolution(x, basis, conv, dropout_mask),
        conv((basis(x) * dropout_mask[..., None, None]).flatten(1, 2)),
    )
    torch.testing.assert_close(y, expected)
    inputs = [x, conv.weight]
    for a, b in zip(
        torch.autograd.grad(y.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("gated", [False, True])
def test_a_mixture_is_one_function_per_channel_or_for_all(rows, gated, chunks):
    basis = create_basis("jacobi", 4).double()
    weight = torch.randn(rows, 4, dtype=torch.float64, requires_grad=True)
    dropout_mask = torch.randint(0, 2, (3, 4, 4)).double() if gated else None
    x = torch.randn(3, 4, 5, 6).double().requires_grad_()
    values = basis(x) if dropout_mask is None else basis(x) * dropout_mask[..., None, None]
    expected = torch.einsum("bckhw,ck->bchw", values, weight.expand(4, 4))
    y = basis_mixture(x, basis, weight, dropout_mask)
    torch.testing.assert_close(y, expected)
    upstream = torch.randn_like(y)
    for a, b in zip(
        torch.autograd.grad(y, (x, weight), upstream),
        torch.autograd.grad(expected, (x, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_an_empty_batch_gives_an_empty_output():
    assert KANConv2d(2, 3, 3, padding=1, basis="gram").eval()(torch.randn(0, 2, 5, 5)).shape == (
        0,
        3,
        5,
        5,
    )
    for share in ("edge", "channel", "layer"):
        assert KANLinear(2, 3, basis="gram", share=share)(torch.randn(0, 2)).shape == (0, 3)
        assert KANConv2d(2, 3, 3, basis="gram", share=share).eval()(
            torch.randn(0, 2, 5, 5)
        ).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("conv", [KANConv1d, KANConv3d])
def test_gradients_of_other_dimensions(conv):
    layer = conv(2, 2, 3, padding=1, basis="jacobi", dtype=torch.float64)
    assert torch.autograd.gradcheck(
        layer, (torch.randn(2, 2, *[4] * layer.ndim, dtype=torch.float64, requires_grad=True),)
    )


@pytest.mark.parametrize(
    "options",
    [{"basis": "wavelet"}, {"basis": "rational"}, {"basis": "gram", "base_activation": "prelu"}],
    ids=str,
)
def test_threads_that_checkpoint_one_layer_leave_it_its_own_parameters(options):
    layer = KANConv2d(3, 4, 3, norm="layer", **options)
    before = dict(layer.named_parameters())
    inputs = [torch.randn(4, 3, 12, 12) for _ in range(2)]
    expected = [torch.autograd.grad(layer(x).square().sum(), before.values()) for x in inputs]
    errors = []

    def train(x, wanted):
        for _ in range(20):
            y = checkpoint(layer, x.clone().requires_grad_(), use_reentrant=False)
            found = torch.autograd.grad(y.square().sum(), before.values())
            errors.append(max((a - b).abs().max() for a, b in zip(found, wanted, strict=True)))

    threads = [
        threading.Thread(target=train, args=each) for each in zip(inputs, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 40
    assert max(errors) < 1e-2
    after = dict(layer.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())


def test_many_gradients_at_a_time_of_weights_and_functions():
    basis = create_basis("gram", 2, learnable=True, degree=4).double()
    conv = nn.Conv2d(10, 3, 3, bias=False).double()
    x = torch.randn(2, 2, 5, 5).double()
    inputs = [conv.weight, basis.beta]
    y = basis_convolution(x, basis, conv)
    many = torch.randn(4, *y.shape, dtype=torch.float64)
    at_a_time = torch.autograd.grad(y, inputs, many, is_grads_batched=True, retain_graph=True)
    for i, upstream in enumerate(many):
        one = torch.autograd.grad(y, inputs, upstream, retain_graph=True)
        for ours, theirs in zip(at_a_time, one, strict=True):
            torch.testing.assert_close(ours[i], theirs)
