import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev, legendre
from scipy.special import eval_jacobi

from kanseg.bases.polynomials import Chebyshev, Gram, Jacobi, Legendre

U = np.linspace(-1, 1, 101)


def values(basis, u=U):
    return basis.double()(torch.from_numpy(u).view(1, 1, -1))[0, 0].T.numpy()


@pytest.mark.parametrize("degree", [0, 1, 3, 9])
def test_legendre_is_numpys(degree):
    np.testing.assert_allclose(
        values(Legendre(1, degree=degree, domain="identity")),
        legendre.legvander(U, degree),
        atol=1e-12,
    )


@pytest.mark.parametrize("degree", [0, 1, 3, 9])
def test_chebyshev_is_numpys(degree):
    np.testing.assert_allclose(
        values(Chebyshev(1, degree=degree, domain="identity")),
        chebyshev.chebvander(U, degree),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [(1, 1), (0, 0), (-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (2, 0.3), (-0.25, -0.75)],
)
def test_jacobi_is_scipys_also_where_the_recurrence_starts_with_zero_over_zero(alpha, beta):
    expected = np.stack([eval_jacobi(n, alpha, beta, U) for n in range(6)], axis=1)
    np.testing.assert_allclose(
        values(Jacobi(1, degree=5, alpha=alpha, beta=beta, domain="identity")), expected, atol=1e-12
    )


def test_jacobi_exponents_of_minus_one_are_refused():
    with pytest.raises(ValueError, match="greater than -1"):
        Jacobi(1, alpha=-1)


@pytest.mark.parametrize("points", [5, 9, 40])
def test_gram_polynomials_are_orthogonal_on_their_points(float64, points):
    nodes = (2 * np.arange(points) + 1 - points) / points
    p = values(Gram(1, degree=4, num_points=points, domain="identity"), nodes)
    product = p.T @ p
    np.testing.assert_allclose(product - np.diag(np.diag(product)), 0, atol=1e-12)


def test_gram_polynomials_are_monic():
    u = np.array([1e4])
    np.testing.assert_allclose(
        values(Gram(1, degree=4, domain="identity"), u)[0], u ** np.arange(5), rtol=1e-6
    )


def test_gram_without_points_is_monic_legendre(float64):
    leading = np.array([legendre.leg2poly(np.eye(6)[n])[-1] for n in range(6)])
    np.testing.assert_allclose(
        values(Gram(1, degree=5, domain="identity")), legendre.legvander(U, 5) / leading, atol=1e-12
    )


def test_gram_coefficients_start_true_and_can_be_learned():
    basis = Gram(2, degree=4, learnable=True)
    np.testing.assert_allclose(
        basis.beta.detach(), [n * n / (4 * n * n - 1) for n in (1, 2, 3)], rtol=1e-6
    )
    basis(torch.randn(1, 2, 9)).square().sum().backward()
    assert (basis.beta.grad != 0).all()


def test_gram_needs_more_points_than_its_degree():
    with pytest.raises(ValueError, match="num_points"):
        Gram(1, degree=4, num_points=4)


def test_inputs_are_mapped_by_tanh():
    x = torch.randn(1, 1, 20)
    torch.testing.assert_close(Legendre(1)(x)[:, :, 1], torch.tanh(x))


def test_float32_is_within_1e5_of_double():
    u = torch.from_numpy(U).view(1, 1, -1)
    for kind in (Legendre, Chebyshev, Gram, Jacobi):
        basis = kind(1, degree=5, domain="identity")
        single = basis(u.float()).double()
        torch.testing.assert_close(single, basis.double()(u), atol=1e-5, rtol=1e-5)
