import pytest
import torch
from torch.nn import functional as F

from kanseg.layers import KANLinear


def test_output_is_the_sum_of_univariate_functions():
    layer = KANLinear(3, 2, basis="legendre", degree=2)
    x = torch.randn(4, 3)
    u = torch.tanh(x)
    values = torch.stack([torch.ones_like(u), u, 1.5 * u**2 - 0.5], dim=-1)
    weight = layer.basis_linear.weight.view(2, 3, 3)
    expected = torch.einsum("oik,bik->bo", weight, values) + F.silu(x) @ layer.base_linear.weight.T
    torch.testing.assert_close(layer(x), expected)


def test_leading_axes_are_kept():
    layer, x = KANLinear(3, 2), torch.randn(4, 5, 3)
    torch.testing.assert_close(layer(x), torch.stack([layer(row) for row in x]))


def test_another_last_axis_is_named():
    with pytest.raises(ValueError, match="expects 3 features"):
        KANLinear(3, 2)(torch.randn(4, 5))
