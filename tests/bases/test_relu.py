import numpy as np
import torch

from kanseg.bases.relu import ReLUBumps


def test_values_are_the_published_formula(float64):
    g, k = 5, 3
    u = np.linspace(-0.5, 1.5, 101)[:, None]
    start = (np.arange(g + k) - k) / g
    end = start + (k + 1) / g
    expected = (np.maximum(end - u, 0) * np.maximum(u - start, 0)) ** 2 * 16 / (end - start) ** 4
    values = ReLUBumps(1, domain="identity").double()(torch.from_numpy(u.T).view(1, 1, -1))[0, 0].T
    np.testing.assert_allclose(values.detach().numpy(), expected, atol=1e-12)


def test_every_bump_has_height_one():
    u = torch.linspace(-1, 2, 3001).view(1, 1, -1)
    peaks = ReLUBumps(1, domain="identity")(u).amax(dim=-1)
    torch.testing.assert_close(peaks, torch.ones_like(peaks), atol=1e-4, rtol=0)


def test_no_standard_normal_input_is_left_without_a_function():
    assert (ReLUBumps(1)(torch.randn(1, 1, 10000)).amax(dim=2) > 0.1).all()


def test_starts_and_widths_are_trained_per_channel():
    basis = ReLUBumps(3)
    assert basis.location.shape == basis.log_scale.shape == (3, 8)
    assert not list(ReLUBumps(3, trainable=False).parameters())
