import numpy as np
import pytest
import torch

from kanseg.bases.fourier import Fourier


def reference(u, frequencies):
    """cos u, sin u, cos 2u, ... in extended precision: (N, 2 frequencies)."""
    angles = np.asarray(u, np.longdouble)[:, None] * np.arange(1, frequencies + 1)
    return np.stack([np.cos(angles), np.sin(angles)], axis=2).reshape(len(u), -1)


@pytest.mark.parametrize("frequencies", [1, 2, 4, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_values_are_those_of_numpy(frequencies, dtype, tolerance):
    u = torch.linspace(-10, 10, 1001, dtype=dtype)
    values = Fourier(1, num_frequencies=frequencies)(u.view(1, 1, -1))[0, 0].T.numpy()
    np.testing.assert_allclose(
        values, reference(u.numpy(), frequencies).astype(np.float64), rtol=0, atol=tolerance
    )


def test_multiples_of_a_large_angle_are_more_exact_than_by_a_rounded_product():
    u = torch.linspace(900, 1000, 1001)
    expected = reference(u.numpy(), 7)
    ours = np.abs(Fourier(1, num_frequencies=7)(u.view(1, 1, -1))[0, 0].T.numpy() - expected).max()
    rounded = np.abs(torch.cos(7 * u).numpy() - expected[:, 12]).max()
    assert ours < 1e-6 < rounded


def test_functions_are_orthogonal_over_a_period():
    u = torch.arange(64, dtype=torch.float64).view(1, 1, -1) * (2 * np.pi / 64)
    values = Fourier(1, num_frequencies=5)(u)[0, 0]
    torch.testing.assert_close(
        values @ values.T / 32, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-13
    )


def test_derivatives_are_those_of_the_formula():
    u = torch.linspace(-3, 3, 101, dtype=torch.float64)
    derivatives = torch.stack(
        [slope for _, slope in Fourier(1).values_and_derivatives(u, derivatives=True)], dim=1
    )
    n = np.arange(1, 5)
    angles = u.numpy()[:, None] * n
    np.testing.assert_allclose(
        derivatives.numpy(),
        np.stack([-n * np.sin(angles), n * np.cos(angles)], axis=2).reshape(101, -1),
        atol=1e-13,
    )


def test_no_frequency_is_refused():
    with pytest.raises(ValueError, match="num_frequencies must be an integer at least 1, got 0"):
        Fourier(1, num_frequencies=0)
