import numpy as np
import pytest
import pywt
import torch
from scipy.integrate import quad

from kanseg.bases.wavelet import WAVELETS, Wavelet, meyer, shannon, sinc


@pytest.mark.parametrize(
    ("name", "reference"), [("mexican_hat", "mexh"), ("morlet", "morl"), ("dog", "gaus1")]
)
def test_values_are_those_of_pywavelets(name, reference):
    expected, x = pywt.ContinuousWavelet(reference).wavefun(level=10)
    values, _ = WAVELETS[name](torch.from_numpy(x))
    np.testing.assert_allclose(values.numpy(), np.real(expected), atol=1e-12)


def meyer_by_its_spectrum(t):
    """The inverse Fourier transform of Meyer's spectrum with the auxiliary function nu(x) = x."""

    def spectrum(w):
        if 2 * np.pi / 3 <= w <= 4 * np.pi / 3:
            return np.sin(np.pi / 2 * (3 * w / (2 * np.pi) - 1))
        return np.cos(np.pi / 2 * (3 * w / (4 * np.pi) - 1))

    edges = (2 * np.pi / 3, 4 * np.pi / 3, 8 * np.pi / 3)
    parts = (
        quad(lambda w: spectrum(w) * np.cos(w * (t - 0.5)), a, b, limit=200)[0]
        for a, b in zip(edges, edges[1:], strict=False)
    )
    return sum(parts) / np.pi


def test_meyer_is_the_inverse_transform_of_its_spectrum_also_at_the_removable_singularities():
    t = np.array(
        [0.5, 0.5 + 3 / 8, 0.5 - 3 / 8, 0.5 + 3 / 4, 0.5 - 3 / 4, 0.0, 1.0, -2.3, 4.1, 0.5001]
    )
    expected = np.array([meyer_by_its_spectrum(x) for x in t])
    np.testing.assert_allclose(meyer(torch.from_numpy(t))[0].numpy(), expected, atol=1e-10)


def test_meyer_is_valenzuela_and_de_oliveiras_closed_form():
    v = np.linspace(-3.03, 3.01, 57)
    first = (
        4 / (3 * np.pi) * v * np.cos(2 * np.pi / 3 * v) - np.sin(4 * np.pi / 3 * v) / np.pi
    ) / (v - 16 / 9 * v**3)
    second = (
        8 / (3 * np.pi) * v * np.cos(8 * np.pi / 3 * v) + np.sin(4 * np.pi / 3 * v) / np.pi
    ) / (v - 64 / 9 * v**3)
    np.testing.assert_allclose(
        meyer(torch.from_numpy(v + 0.5))[0].numpy(), first + second, atol=1e-9
    )


def test_shannon_is_the_difference_of_two_sinc_functions():
    t = np.linspace(-6, 6, 301)
    np.testing.assert_allclose(
        shannon(torch.from_numpy(t))[0].numpy(), 2 * np.sinc(2 * t) - np.sinc(t), atol=1e-12
    )


@pytest.mark.parametrize("name", ["mexican_hat", "morlet", "dog"])
def test_integral_is_zero(name):
    t = torch.linspace(-20, 20, 40001, dtype=torch.float64)
    assert abs(torch.trapezoid(WAVELETS[name](t)[0], t)) < 1e-4


@pytest.mark.parametrize("function", [meyer, shannon])
def test_slowly_decaying_wavelets_have_no_mean(function):
    t = torch.linspace(-400, 400, 800001, dtype=torch.float64)
    assert abs(torch.trapezoid(function(t)[0], t)) < 5e-3


def test_sinc_and_its_gradient_are_right_near_zero():
    x = torch.tensor([0.0, 1e-8, 1e-4, 9.9e-3, 1.01e-2, 0.5], requires_grad=True)
    sinc(x)[0].sum().backward()
    y = x.detach().double()
    expected = torch.where(y == 0, 0.0, (torch.cos(np.pi * y) - torch.sinc(y)) / y.clamp_min(1e-30))
    expected[1:3] = -(np.pi**2) / 3 * y[1:3]
    torch.testing.assert_close(x.grad.double(), expected, rtol=1e-3, atol=1e-6)


def test_scales_stay_positive_whatever_is_learned():
    basis = Wavelet(1)
    with torch.no_grad():
        basis.log_scale.fill_(-20.0)
    assert torch.isfinite(basis(torch.randn(1, 1, 9))).all()


def test_unknown_wavelet_lists_the_known():
    with pytest.raises(ValueError, match="mexican_hat, morlet, dog, meyer, shannon"):
        Wavelet(1, wavelet="haar")
