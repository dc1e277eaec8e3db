"""The kernels of horner_triton in Triton's interpreter, on the CPU.

`test_horner_triton.py` runs this file with TRITON_INTERPRET=1: it has to be set before anything
imports Triton.
"""

import pytest
import torch

from kanseg.layers.kernels import horner_triton
from kanseg.layers.kernels.horner import PolynomialVariable, plain_polynomial

VARIABLES = [
    PolynomialVariable(0.0, 0.0),
    PolynomialVariable(1.0, 0.0),
    PolynomialVariable(1.0, 0.5),
    PolynomialVariable(2.0, 0.5),
]
# Channels and positions that are no powers of 2, several tiles in each direction, none or one.
SHAPES = [(2, 3, 5, 7), (2, 40, 33), (5, 70), (3, 1, 4), (4, 6, 1, 1), (1, 2, 65, 71), (1, 1, 9000)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def channels_last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def expected(grad, x, coefficients, t, silu):
    """Value and both gradients in float64."""
    x, coefficients = (each.double().detach().requires_grad_() for each in (x, coefficients))
    y = plain_polynomial(x, coefficients, t, silu)
    inputs = (x, coefficients)
    return y, *torch.autograd.grad(y, inputs, grad.double(), materialize_grads=True)


def check(x, coefficients, t=VARIABLES[1], silu=True, grad=None):
    grad = torch.randn(x.shape, dtype=x.dtype) if grad is None else grad
    y = horner_triton.forward(x, coefficients, t, silu)
    grad_x, grad_coefficients = horner_triton.backward(grad, x, coefficients, t, silu, True, True)
    for found, wanted in zip(
        (y, grad_x, grad_coefficients), expected(grad, x, coefficients, t, silu), strict=True
    ):
        assert found.shape == wanted.shape
        scale = wanted.abs().max().clamp(min=1)
        tolerance = TOLERANCE[x.dtype]
        assert ((found.double() - wanted) / scale).abs().max() < tolerance
    assert (y.dtype, grad_x.dtype, grad_coefficients.dtype) == (
        x.dtype,
        x.dtype,
        coefficients.dtype,
    )
    return y, grad_x


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.clone, channels_last])
def test_values_and_gradients(shape, layout):
    x = layout(torch.randn(shape))
    y, grad_x = check(x, torch.randn(shape[1], 5, dtype=torch.float64))
    assert y.stride() == grad_x.stride() == x.stride()


@pytest.mark.parametrize("t", VARIABLES, ids=str)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_every_variable_and_degree(t, silu, count):
    check(torch.randn(2, 3, 4, 5), torch.randn(3, count), t, silu)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = 2 * torch.randn(2, 6, 9, 4)
    check(x.to(dtype), torch.randn(6, 5), VARIABLES[3])
    check(channels_last(x).to(dtype), torch.randn(6, 5))


@pytest.mark.parametrize("layout", [torch.clone, channels_last])
def test_one_polynomial_for_all_channels(layout):
    check(layout(torch.randn(2, 5, 3, 4)), torch.randn(1, 4))


def test_inputs_and_gradients_with_holes_in_memory():
    whole = torch.randn(2, 8, 6, 10)
    coefficients = torch.randn(4, 4)
    check(whole[:, 2:6], coefficients)  # channels of a larger tensor
    check(whole[:, ::2, :, ::3], coefficients)
    check(whole[:, :4].transpose(2, 3), coefficients)
    check(torch.randn(4, 1, 1).expand(2, 4, 6, 10), coefficients[:, :3])
    x = torch.randn(2, 4, 6, 10)
    check(x, coefficients, grad=torch.randn(()).expand(x.shape))  # as of y.sum()
    check(channels_last(x), coefficients, grad=torch.randn(2, 4, 1, 1).expand(x.shape))
    check(x, coefficients, grad=channels_last(torch.randn(x.shape)))


@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize("needs_coefficients", [False, True])
def test_only_the_gradients_that_are_needed(needs_x, needs_coefficients):
    x, coefficients = torch.randn(2, 3, 7), torch.randn(3, 4)
    arguments = torch.randn(x.shape), x, coefficients, VARIABLES[1], True
    found = horner_triton.backward(*arguments, needs_x, needs_coefficients)
    both = horner_triton.backward(*arguments, True, True)
    needed = needs_x, needs_coefficients
    for one, other, is_needed in zip(found, both, needed, strict=True):
        assert (one is not None) == is_needed
        assert one is None or torch.equal(one, other)


def test_saturated_inputs_are_finite():
    x = torch.tensor([-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4]).reshape(1, 1, -1)
    for t in VARIABLES[1:]:
        check(x, torch.randn(1, 5), t, silu=True)
