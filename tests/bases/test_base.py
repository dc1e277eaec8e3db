import pytest
import torch

from kanseg.bases import BASES, create_basis


def test_second_moments_are_those_of_a_standard_normal_sample():
    x = torch.randn(1, 1, 400000)
    for name in BASES:
        basis = create_basis(name, 1)
        sampled = basis(x).square().mean(dim=(0, 1, 3)).double()
        torch.testing.assert_close(basis.second_moments(), sampled, rtol=0.05, atol=2e-3)


def test_misspelt_option_names_the_nearest():
    with pytest.raises(ValueError, match="no option 'degre'; did you mean 'degree'"):
        create_basis("gram", 2, degre=3)


def test_misspelt_basis_names_the_nearest():
    with pytest.raises(ValueError, match="unknown basis 'bsplines'; did you mean 'bspline'"):
        create_basis("bsplines", 2)


def test_moments_of_many_channels_are_taken_a_few_points_at_a_time(monkeypatch):
    basis = create_basis("wavelet", 7)
    whole = basis.second_moments()
    torch.testing.assert_close(whole, basis.normal_values().square().mean(dim=(0, 2)))
    monkeypatch.setattr("kanseg.bases.base.AT_ONCE", 7 * basis.num_functions * 100)
    torch.testing.assert_close(basis.second_moments(), whole)
