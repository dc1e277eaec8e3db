import numpy as np
import torch
from scipy.special import comb

from kanseg.bases.bernstein import Bernstein


def test_values_are_binomial_weights():
    u = np.linspace(0, 1, 41)
    for degree in (0, 1, 3, 7):
        expected = np.stack(
            [comb(degree, j) * u**j * (1 - u) ** (degree - j) for j in range(degree + 1)], axis=1
        )
        values = (
            Bernstein(1, degree=degree, domain="identity")
            .double()(torch.from_numpy(u).view(1, 1, -1))[0, 0]
            .T
        )
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-12)


def test_functions_sum_to_one_everywhere():
    x = torch.randn(1, 3, 50) * 4
    total = Bernstein(3, degree=5)(x).sum(dim=2)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_gradient_is_finite_at_the_ends():
    u = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    (
        Bernstein(1, degree=3, domain="identity")(u) * torch.arange(4.0).view(1, 1, 4, 1)
    ).sum().backward()
    torch.testing.assert_close(u.grad, torch.full((1, 1, 2), 3.0))  # sum j B_j = D u
