import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

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
    with pytest.raises(ValueError, match="3 features"):
        KANLinear(3, 2)(torch.randn(4, 5))


def test_edge_norms_of_weights_made_from_others():
    class Twice(nn.Module):
        def forward(self, weight):
            return weight * 2

    layer, x = KANLinear(3, 2, base_activation=None), torch.randn(4, 3)
    norms, seen = layer.edge_norms(), layer.edge_norms(x)
    parametrize.register_parametrization(layer.basis_linear, "weight", Twice())
    torch.testing.assert_close(layer.edge_norms(), 2 * norms)
    torch.testing.assert_close(layer.edge_norms(x), 2 * seen)


@pytest.mark.parametrize("part", ["basis_linear", "base_linear"])
def test_edge_norms_do_not_pass_over_a_replaced_matrix(part):
    class Shifted(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    layer = KANLinear(3, 2)
    getattr(layer, part).__class__ = Shifted
    for x in (None, torch.randn(4, 3)):
        with pytest.raises(ValueError, match=f"{part} is a Shifted"):
            layer.edge_norms(x)
