"""Sums of sines on a CPU: the compiled kernels against NumPy and autograd in float64."""

from functools import partial

import numpy as np
import pytest
import torch

from kanseg.bases import create_basis
from kanseg.layers.kernels.trigonometric import trigonometric

pytest.importorskip("numba")

DOMAINS = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "half_tanh": lambda x: np.tanh(x / 2),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def expected_sum(x, weight, domain, silu):
    """The sum for x (B, C, *S) and weight (C or 1, 2N) by its definition."""
    x, weight = x.numpy().astype(np.float64), weight.numpy().astype(np.float64)
    u, y = DOMAINS[domain](x), np.zeros(x.shape)
    if silu:
        y = x / (1 + np.exp(-x))
    columns = weight.T.reshape(-1, 2, len(weight), *[1] * (x.ndim - 2))
    for n, (a, b) in enumerate(columns, start=1):
        y = y + a * np.cos(n * u) + b * np.sin(n * u)
    return y


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(("frequencies", "rows"), [(1, 3), (4, 3), (4, 1), (9, 1)])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.slow_except("identity", "4-3-tanh")  # each of the others is compiled for seconds
def test_values_are_those_of_the_definition(domain, frequencies, rows, silu):
    torch.manual_seed(0)
    basis = create_basis("fourier", 3, num_frequencies=frequencies, domain=domain)
    weight = torch.randn(rows, 2 * frequencies)
    for shape in ((5, 3), (2, 3, 70), (2, 3, 45, 50), (1, 3, 4, 5, 6)):
        x = 3 * torch.randn(shape)
        found = trigonometric(x, weight, basis, silu)
        expected = expected_sum(x, weight, domain, silu)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6 * frequencies**2)


@pytest.mark.parametrize("domain", ["identity", "tanh"])
@pytest.mark.parametrize("rows", [3, 1])
def test_gradients_are_those_of_the_functions(domain, rows):
    torch.manual_seed(0)
    basis = create_basis("fourier", 3, domain=domain)
    x = torch.randn(4, 3, 30, 40, requires_grad=True)
    weight = torch.randn(rows, 8, requires_grad=True)
    upstream = torch.randn(x.shape)
    y = trigonometric(x, weight, basis, silu=True)
    found = torch.autograd.grad(y, (x, weight), upstream)

    exact = [each.detach().double().requires_grad_() for each in (x, weight)]
    values = basis(exact[0])  # (B, C, K, *S)
    y = (values * exact[1].view(1, rows, 8, 1, 1)).sum(2) + torch.nn.functional.silu(exact[0])
    expected = torch.autograd.grad(y, exact, upstream.double())
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("size", [10.0, 9e3, 1.1e4, 1e6, 1e8])
def test_any_number_of_periods_away_it_is_as_accurate(size):
    """Also where one value of a row is far away, and the others are not."""
    torch.manual_seed(0)
    basis, weight = create_basis("fourier", 1), torch.randn(1, 8)
    x = size * torch.rand(1, 1, 5000) - size / 2
    x[..., ::2] /= size
    found = trigonometric(x, weight, basis, silu=False)
    expected = expected_sum(x, weight, "identity", silu=False)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


def test_only_sines_and_single_precision_have_a_kernel():
    x, weight = torch.randn(2, 3, 40), torch.randn(3, 8)
    compute = partial(trigonometric, silu=True)
    assert compute(x.double(), weight.double(), create_basis("fourier", 3)) is None
    assert compute(x, weight, create_basis("bspline", 3)) is None
    assert compute(x.bfloat16(), weight, create_basis("fourier", 3)).dtype == torch.bfloat16
