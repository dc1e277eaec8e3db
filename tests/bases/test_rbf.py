import numpy as np
import pytest
import torch

from kanseg.bases.rbf import GaussianRBF


def test_values_are_gaussians_of_the_spacing(float64):
    x = np.linspace(-3, 3, 61)
    centers = np.linspace(-2, 2, 8)
    expected = np.exp(-(((x[:, None] - centers) / (centers[1] - centers[0])) ** 2))
    values = GaussianRBF(1)(torch.from_numpy(x).view(1, 1, -1))[0, 0].T
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-12)


def test_instance_norm_makes_it_invariant_to_shift_and_scale_of_a_channel():
    basis = GaussianRBF(2, domain="instance_norm")
    x = torch.randn(1, 2, 9, 9)
    torch.testing.assert_close(basis(x * 3 + 7), basis(x), atol=1e-4, rtol=0)


def test_instance_norm_of_a_vector_is_refused():
    with pytest.raises(ValueError, match="layer_norm"):
        GaussianRBF(2, domain="instance_norm")(torch.randn(3, 2))


def test_one_center_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        GaussianRBF(1, grid_size=1)
