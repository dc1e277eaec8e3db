"""The kernels run in Triton's interpreter (`interpreted_horner_triton.py`), are compiled for GPUs
that need not be there, and run on one where there is one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from kanseg.layers.activation import KANActivation
from kanseg.layers.kernels.horner import (
    PolynomialVariable,
    plain_polynomial,
    polynomial,
    select_kernels,
)
from kanseg.models.operations import saved_bytes

HERE = Path(__file__).parent
# In a process of its own: Triton must not have been imported as an interpreter here.
COMPILING = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kanseg.layers.kernels import horner_triton

def compile(kernel, pointers, index, constants):
    names = kernel.arg_names
    types = dict.fromkeys(names, index) | pointers | dict.fromkeys(constants, "constexpr")
    constants = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, {name: types[name] for name in names}, constants)
    triton.compile(source, target=GPUTarget("cuda", 90, 32))

half = dict.fromkeys(["x_pointer", "y_pointer", "grad_pointer", "grad_x_pointer"], "*bf16")
single = dict.fromkeys(["coefficients", "sums"], "*fp32")
for scale, silu, index in [(0.0, False, "i32"), (1.0, True, "i32"), (2.0, True, "i64")]:
    constants = {"N": 5, "SCALE": scale, "CENTER": 0.5, "SILU": silu, "BLOCK_C": 4, "BLOCK_P": 64}
    for kernel, unused in [
        (horner_triton._forward_kernel, None),
        (horner_triton._backward_kernel, None),
        (horner_triton._backward_kernel, "sums"),
        (horner_triton._backward_kernel, "grad_x_pointer"),
    ]:
        pointers = {k: v for k, v in (half | single).items() if k in kernel.arg_names}
        compile(kernel, pointers, index, constants | ({unused: None} if unused else {}))
"""
gpu = pytest.mark.gpu
kinds = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]
)


def python(*arguments, **variables):
    """Runs Python without what belongs to this test run."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | variables
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )


def test_the_kernels_in_the_interpreter():
    pytest.importorskip("triton", minversion="3.3")  # the interpreter of 3.1 lacks what they use
    cases = HERE / "interpreted_horner_triton.py"
    done = python("-m", "pytest", "-n", "0", str(cases), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_the_kernels_compile_without_a_gpu(tmp_path):
    pytest.importorskip("triton", minversion="3.3")  # whose ASTSource takes constants by position
    done = python("-c", COMPILING, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]


def test_pytorch_computes_what_no_kernel_can():
    coefficients = torch.zeros(3, 4)
    assert select_kernels(torch.zeros(2, 3, dtype=torch.float64), coefficients) is None
    assert select_kernels(torch.zeros(0, 3), coefficients) is None
    assert select_kernels(torch.zeros(2, 3, device="meta"), coefficients) is None
    with FakeTensorMode():
        x = torch.zeros(2, 3, device="cuda")
        assert select_kernels(x, coefficients) is None


@pytest.mark.slow
def test_the_kernels_are_imported_where_a_gpu_asks_for_them():
    code = (
        "import sys, torch; from kanseg.layers.activation import KANActivation;"
        "KANActivation(3)(torch.randn(2, 3, requires_grad=True)).sum().backward();"
        "print('kanseg.layers.kernels.horner_triton' in sys.modules)"
    )
    assert python("-c", code).stdout.strip() == "False"


@gpu
def test_pytorch_computes_what_the_kernels_do_not():
    x, coefficients = torch.zeros(2, 3, device="cuda"), torch.zeros(3, 4, device="cuda")
    assert select_kernels(x, coefficients) is not None
    assert select_kernels(x[:0], coefficients) is None
    assert select_kernels(x.double(), coefficients) is None
    assert select_kernels(x, coefficients.cpu()) is None
    assert select_kernels(x, coefficients[:2]) is None


@gpu
@kinds
@pytest.mark.parametrize("shape", [(4, 64, 33, 31), (2, 3, 128, 128), (300, 100), (2, 7, 5, 6, 7)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "t",
    [PolynomialVariable(1.0, 0.0), PolynomialVariable(2.0, 0.5), PolynomialVariable(0.0, 0.0)],
    ids=str,
)
def test_values_and_gradients(shape, last, t, dtype, tolerance):
    x = torch.randn(shape, device="cuda").to(dtype)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    x.requires_grad_()
    coefficients = torch.randn(shape[1], 5, device="cuda", dtype=torch.float64, requires_grad=True)
    assert select_kernels(x, coefficients) is not None
    grad, inputs = torch.randn_like(x), (x, coefficients)
    y = polynomial(x, coefficients, t, True)
    found = y, *torch.autograd.grad(y, inputs, grad)
    wide = x.detach().double().requires_grad_()
    y = plain_polynomial(wide, coefficients, t, True)
    wanted = y, *torch.autograd.grad(y, (wide, coefficients), grad.double())
    for one, other in zip(found, wanted, strict=True):
        scale = other.abs().max().clamp(min=1)
        assert ((one - other) / scale).abs().max() < tolerance
    assert found[0].stride() == found[1].stride() == x.stride()


@gpu
@kinds
def test_the_activation_keeps_what_silu_keeps(dtype, tolerance):
    x = torch.randn(4, 32, 64, 64, device="cuda", dtype=dtype, requires_grad=True)
    layer = KANActivation(32, basis="gram").cuda()
    mine = saved_bytes(lambda: layer(x), layer.parameters())
    silu = saved_bytes(lambda: nn.functional.silu(x))
    assert silu <= mine < 1.01 * silu  # and a few coefficients
    torch.testing.assert_close(layer(x), nn.functional.silu(x), rtol=tolerance, atol=tolerance)


@gpu
@kinds
def test_forward_needs_no_memory_but_its_output(dtype, tolerance):
    x = torch.randn(4, 32, 256, 256, device="cuda", dtype=dtype)
    coefficients = torch.randn(32, 5, device="cuda")
    polynomial(x, coefficients, PolynomialVariable(1.0, 0.0), True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    polynomial(x, coefficients, PolynomialVariable(1.0, 0.0), True)
    assert torch.cuda.max_memory_allocated() - before < 1.01 * x.nbytes


@gpu
def test_gradients_are_the_same_each_time():
    x = torch.randn(8, 48, 65, 63, device="cuda", requires_grad=True)
    coefficients = torch.randn(48, 5, device="cuda", requires_grad=True)
    grad = torch.randn_like(x)
    runs = []
    for _ in range(3):
        y = polynomial(x, coefficients, PolynomialVariable(1.0, 0.0), True)
        runs.append(torch.autograd.grad(y, (x, coefficients), grad))
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))


@gpu
def test_more_than_2_to_31_entries():
    shape = (1, 2, (1 << 30) + 5)
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB")
    t = PolynomialVariable(1.0, 0.0)
    for last in (False, True):
        x = torch.zeros(shape, device="cuda", dtype=torch.float16)
        if last:
            x = x.reshape(1, shape[2], 2).movedim(-1, 1)
        x[..., -100:] = torch.randn(2, 100, device="cuda")
        x.requires_grad_()
        coefficients = torch.randn(2, 3, device="cuda")
        y = polynomial(x, coefficients, t, True)
        end = x.detach()[..., -100:].float().requires_grad_()
        wanted = plain_polynomial(end, coefficients, t, True)
        torch.testing.assert_close(y[..., -100:].float(), wanted, rtol=1e-3, atol=1e-3)
        (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
        (wanted_grad,) = torch.autograd.grad(wanted.sum(), end)
        torch.testing.assert_close(grad[..., -100:].float(), wanted_grad, rtol=1e-3, atol=1e-3)
        del x, y, grad


@gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one():
    x = torch.randn(2, 3, 9, device="cuda:1", requires_grad=True)
    coefficients = torch.randn(3, 4, device="cuda:1")
    y = polynomial(x, coefficients, PolynomialVariable(1.0, 0.0), True)
    y.sum().backward()
    torch.testing.assert_close(
        y, plain_polynomial(x, coefficients, PolynomialVariable(1.0, 0.0), True)
    )
