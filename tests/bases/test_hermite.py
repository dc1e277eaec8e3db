from math import factorial, pi, sqrt

import numpy as np
import pytest
import torch
from scipy.special import eval_hermite, eval_hermitenorm

from kanseg.bases.hermite import Hermite

U = np.linspace(-6, 6, 241)
KINDS = pytest.mark.parametrize("kind", ["physicist", "probabilist"])


def reference(kind, n, u):
    if kind == "physicist":
        return eval_hermite(n, u) * np.exp(-(u**2) / 2) / sqrt(2**n * factorial(n) * sqrt(pi))
    return eval_hermitenorm(n, u) * np.exp(-(u**2) / 4) / sqrt(factorial(n) * sqrt(2 * pi))


@KINDS
@pytest.mark.parametrize("degree", [0, 1, 3, 12])
def test_values_are_those_of_scipy(kind, degree):
    expected = np.stack([reference(kind, n, U) for n in range(degree + 1)], axis=1)
    basis, u = Hermite(1, degree=degree, kind=kind), torch.from_numpy(U).view(1, 1, -1)
    np.testing.assert_allclose(basis(u)[0, 0].T.numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(basis(u.float())[0, 0].T.numpy(), expected, rtol=0, atol=1e-5)


@KINDS
def test_functions_are_orthonormal(kind):
    """By the trapezoidal rule, which is exact to rounding for smooth functions that vanish at both
    ends.
    """
    u = torch.linspace(-30, 30, 6001, dtype=torch.float64).view(1, 1, -1)
    values = Hermite(1, degree=50, kind=kind)(u)[0, 0]
    torch.testing.assert_close(
        values @ values.T * 0.01, torch.eye(51, dtype=torch.float64), rtol=0, atol=1e-12
    )


@KINDS
def test_derivatives_are_those_by_the_neighbors(kind):
    """psi_n' = sqrt(n / 2) psi_(n-1) - sqrt((n + 1) / 2) psi_(n+1) for the physicists', halved in
    the square for the probabilists'.
    """
    derivatives = torch.stack(
        [
            slope
            for _, slope in Hermite(1, degree=6, kind=kind).values_and_derivatives(
                torch.from_numpy(U), derivatives=True
            )
        ]
    )
    divisor = 2 if kind == "physicist" else 4
    for n, slope in enumerate(derivatives.numpy()):
        lower = sqrt(n / divisor) * reference(kind, n - 1, U) if n else 0
        np.testing.assert_allclose(
            slope, lower - sqrt((n + 1) / divisor) * reference(kind, n + 1, U), rtol=0, atol=1e-12
        )


@KINDS
def test_high_degrees_stay_exact_in_float32(kind):
    u = torch.linspace(-16, 16, 2001).view(1, 1, -1)
    basis = Hermite(1, degree=60, kind=kind)
    torch.testing.assert_close(basis(u).double(), basis(u.double()), rtol=0, atol=1e-5)


@KINDS
@pytest.mark.parametrize("degree", [3, 10, 60])
def test_gradients_by_autograd_are_finite_everywhere_and_zero_far_outside(kind, degree):
    """Autograd goes back through polynomials of u, which overflow at 1e4 from degree 10 on."""
    u = (
        torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([1e3, -1e4, 1e15, -3e38])])
        .view(1, 1, -1)
        .requires_grad_()
    )
    basis = Hermite(1, degree=degree, kind=kind)
    values = basis(u)
    values.sum().backward()
    torch.testing.assert_close(
        u.grad,
        sum(slope for _, slope in basis.values_and_derivatives(u.detach(), derivatives=True)),
        rtol=0,
        atol=1e-4,
    )
    assert (values[..., -4:] == 0).all()
    assert (u.grad[..., -4:] == 0).all()


def test_unknown_kind_lists_the_known():
    with pytest.raises(ValueError, match="physicist, probabilist"):
        Hermite(1, kind="chemist")
