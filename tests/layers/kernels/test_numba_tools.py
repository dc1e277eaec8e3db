"""Learned activations on a CPU: the compiled kernels against PyTorch's operations in float64."""

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from kanseg.layers import KANActivation
from kanseg.layers.kernels.horner import PolynomialVariable, plain_polynomial, polynomial

pytest.importorskip("numba")

SHAPES = [(5, 3), (2, 3, 70), (2, 3, 9, 8), (2, 3, 1, 1), (1, 3, 4, 5, 6), (3, 3, 150, 120)]
VARIABLES = [PolynomialVariable(*each) for each in ((0, 0), (1, 0), (1, 0.5), (2, 0), (2, 0.5))]
BASES = ["gram", "bspline", "rbf", "fourier", "hermite", "wavelet", "relu", "rational"]
TABLES = [
    *(("bspline", {"spline_order": order}) for order in (2, 3, 4, 5)),
    ("bspline", {"domain": "tanh", "grid_range": (-1.0, 1.0)}),
    ("rbf", {}),
    ("rbf", {"domain": "half_tanh", "grid_range": (-1.0, 1.0)}),
    ("hermite", {"degree": 0}),
    ("hermite", {"degree": 8, "kind": "probabilist"}),
    ("wavelet", {}),
    ("wavelet", {"wavelet": "morlet"}),
    ("wavelet", {"wavelet": "dog", "domain": "sigmoid"}),
    ("relu", {}),
    ("relu", {"grid_size": 3, "order": 0, "domain": "identity"}),
]
EXTREMES = [0.0, -0.0, 1e-30, -1e-30, 87.0, -87.0, 1e4, -1e4, 3e38, -3e38]


def layer(basis="gram", channels=3, **options):
    torch.manual_seed(0)
    made = KANActivation(channels, basis=basis, **options)
    nn.init.normal_(made.weight, std=0.3)
    return made


def gradients(function, x, *weights):
    torch.manual_seed(1)
    y = function(x, *weights)
    found = torch.autograd.grad(
        y, (x, *weights), torch.randn(y.shape).to(y), materialize_grads=True
    )
    return y, *found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("t", VARIABLES)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.slow_except("True-t1-")  # each of the others is compiled for seconds
def test_polynomials_are_those_of_float64(shape, t, silu):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    for count, rows in ((1, 3), (4, 3), (4, 1), (7, 1)):
        weight = torch.randn(rows, count, requires_grad=True)
        found = gradients(partial(polynomial, t=t, silu=silu), x, weight)
        exact = [each.detach().double().requires_grad_() for each in (x, weight)]
        expected = gradients(partial(plain_polynomial, t=t, silu=silu), *exact)
        for ours, theirs in zip(found, expected, strict=True):
            scale = theirs.abs().max().clamp_min(1)
            assert (ours - theirs).abs().max() <= 2e-5 * scale


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("layout", ["channels_last", "expanded", "transposed", "half"])
@pytest.mark.slow_except("gram", "rational", "wavelet")
def test_the_layout_and_type_of_a_tensor_change_nothing(basis, layout):
    function, x = layer(basis), torch.randn(4, 3, 20, 30)
    expected = gradients(function, x.clone().requires_grad_())
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "transposed":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "half":
        x = x.half()
        expected = [each.half() for each in gradients(function, x.float().requires_grad_())]
    if layout == "expanded":
        x = x.requires_grad_()
        found = torch.autograd.grad(function(x).sum(), x)[0]
        all_ones = torch.autograd.grad(function(x), x, torch.ones(4, 3, 20, 30))[0]
        assert torch.equal(found, all_ones)
        return
    found = gradients(function, x.requires_grad_())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 if layout == "half" else 1e-6)
    assert found[0].stride() == x.stride()


@pytest.mark.parametrize("basis", BASES)
def test_as_many_threads_as_torch_has_give_the_same(basis):
    function, before = layer(basis, 5), torch.get_num_threads()
    x = torch.randn(8, 5, 120, 130, requires_grad=True)
    try:
        torch.set_num_threads(1)
        expected = gradients(function, x)
        weight = torch.autograd.grad(function(x).square().sum(), function.weight)[0]
        torch.set_num_threads(3)
        for ours, theirs in zip(gradients(function, x), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        again = torch.autograd.grad(function(x).square().sum(), function.weight)[0]
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(again, weight, rtol=1e-4, atol=1e-4 * float(weight.abs().max()))


@pytest.mark.parametrize(
    "basis", ["gram", "bspline", "rbf", "hermite", "wavelet", "relu", "rational"]
)
def test_extreme_numbers_are_finite_and_not_a_number_stays_so(basis):
    function = layer(basis, 1)
    x = torch.tensor(EXTREMES).reshape(1, 1, -1).repeat(1, 1, 8).requires_grad_()
    found = gradients(function, x)
    exact = layer(basis, 1).double()
    expected = gradients(exact, x.detach().double().requires_grad_())
    assert all(torch.isfinite(each).all() for each in found)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-4)
    # Between its entries a table has the slope of a line.
    torch.testing.assert_close(found[1].double(), expected[1], rtol=0, atol=5e-2)
    lost = torch.full((1, 1, 64), float("nan"))
    lost[..., ::2] = 1.0
    assert torch.equal(function(lost).isnan(), lost.isnan())
    assert torch.equal(layer(basis, 1, base=None)(lost).isnan(), lost.isnan())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.slow
def test_a_forked_process_has_threads_of_its_own():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = float(layer()(torch.ones(8, 3, 200, 200)).detach().mean())
    finally:
        torch.set_num_threads(before)
    script = (
        "import os, sys, torch, kanseg.layers as layers\n"
        "torch.set_num_threads(2)\n"
        "torch.manual_seed(0)\n"
        "f = layers.KANActivation(3)\n"
        "torch.nn.init.normal_(f.weight, std=0.3)\n"
        "x = torch.ones(8, 3, 200, 200)\n"
        "f(x)\n"
        "torch.set_num_threads(1)\n"  # torch's own threads do not live in a fork
        "child = os.fork()\n"
        "y = f(x).detach().mean().item()\n"
        "assert abs(y - float(sys.argv[1])) < 1e-5\n"
        "if child == 0:\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(expected)], check=True, timeout=120)


@pytest.mark.slow
def test_without_numba_the_same_is_computed_and_said():
    expected = layer("bspline")(torch.linspace(-4, 4, 60).expand(2, 3, -1)).detach()
    script = (
        "import sys, warnings\n"
        "sys.modules['numba'] = None\n"
        "import torch, kanseg.layers as layers\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    for basis in ('gram', 'bspline'):\n"
        "        torch.manual_seed(0)\n"
        "        f = layers.KANActivation(3, basis=basis)\n"
        "        torch.nn.init.normal_(f.weight, std=0.3)\n"
        "        x = torch.linspace(-4, 4, 60).expand(2, 3, -1).clone().requires_grad_()\n"
        "        y = f(x)\n"
        "        y.sum().backward()\n"
        "assert len([each for each in said if 'umba' in str(each.message)]) == 1\n"
        "print(y.detach().mean().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=120, capture_output=True, text=True
    )
    assert float(done.stdout) == pytest.approx(float(expected.mean()), abs=1e-4)


def second_derivative(f, x):
    x = x.requires_grad_()
    first = torch.autograd.grad(f(x).sum(), x, create_graph=True)[0]
    return torch.autograd.grad(first.square().sum(), x)[0]


@pytest.mark.parametrize("basis", BASES)
def test_second_derivatives_are_those_of_the_functions(basis):
    x = torch.randn(2, 3, 40)
    expected = second_derivative(layer(basis).double(), x.double())
    found = second_derivative(layer(basis), x.clone())
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("domain", ["instance_norm", "layer_norm"])
def test_a_normalizing_domain_is_applied_once(basis, domain):
    """An input whose variance is less than eps is not normalized to variance 1, but a second
    normalization would do that.
    """
    x = 1e-3 * torch.randn(2, 3, 40)
    exact = layer(basis, domain=domain).double()
    expected = second_derivative(exact, x.double())
    found = second_derivative(layer(basis, domain=domain), x.clone())
    assert (found - expected).abs().max() <= 5e-4 * expected.abs().max()
    mapped = torch.func.vmap(layer(basis, domain=domain), randomness="error")(x.unsqueeze(0))
    torch.testing.assert_close(mapped[0].double(), exact(x.double()), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("basis", "options"), TABLES, ids=str)
@pytest.mark.parametrize("moved", [False, True])
def test_tables_hold_each_function_to_five_digits(basis, options, moved):
    count = layer(basis, 1, **options).basis.num_functions
    function = layer(basis, count, base=None, **options)
    if moved and function.basis.has_grid:
        function.update_grid(torch.linspace(-3, 5, 4000).expand(count, -1).T)
    with torch.no_grad():
        for parameter in function.basis.parameters() if moved else ():
            parameter += 0.2 * torch.randn(count)  # of each function, in all channels alike
        function.weight.copy_(torch.eye(count))
        x = torch.linspace(-7, 7, 20_001).expand(1, count, -1)
        found = function(x).double()
        expected = function.double()(x.double())
    size = expected.abs().amax(2, keepdim=True)
    assert ((found - expected).abs() <= 5e-5 * size + 1e-6).all()


@pytest.mark.parametrize("basis", ["wavelet", "relu", "rational"])
@pytest.mark.parametrize("share", ["channel", "layer", 2])
@pytest.mark.parametrize("base", ["silu", None])
@pytest.mark.slow_except("silu")
def test_parameters_of_the_functions_get_their_gradients(basis, share, base):
    function = layer(basis, share=share, base=base)
    with torch.no_grad():
        for parameter in function.basis.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    x, upstream = torch.randn(4, 3, 30, 20), torch.randn(4, 3, 30, 20)
    found = torch.autograd.grad(function(x), tuple(function.parameters()), upstream)
    exact = copy.deepcopy(function).double()
    y = exact(x.double())
    expected = torch.autograd.grad(y, tuple(exact.parameters()), upstream.double())
    for ours, theirs in zip(found, expected, strict=True):
        # Bumps of squares have corners in their slope, which cubic pieces round off.
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()


CHANGES = {
    "a step": lambda f, other: torch._foreach_add_(list(f.parameters()), 0.3),
    "data": lambda f, other: [p.data.mul_(1.5) for p in f.parameters()],
    "a loaded state": lambda f, other: f.load_state_dict(other.state_dict()),
    "another type": lambda f, other: f.to(torch.bfloat16),
    "a moved grid": lambda f, other: f.basis.has_grid and f.update_grid(torch.randn(2, 3, 999)),
    "other channels": lambda f, other: [f.set_channels(1), f.set_channels(3)],
}


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@torch.no_grad()
def test_what_is_remembered_is_never_stale(basis, change):
    function, other = layer(basis).eval(), layer(basis)
    for parameter in other.parameters():
        parameter += 0.2 * torch.randn(parameter.shape)
    x = torch.randn(2, 3, 40)
    function(x)
    change(function, other)
    expected = copy.deepcopy(function).double()(x.double())
    torch.testing.assert_close(function(x).double(), expected, rtol=1e-4, atol=5e-4)
