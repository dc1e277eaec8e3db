import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.nn import functional as F

import kanseg
from kanseg.layers import KANLinear
from kanseg.models import kan


def efficient_kan(x, layer, knots):
    """efficient-kan's formulation, with scipy's splines: F.linear(silu(x), base) +
    F.linear(b_splines(x).flatten(1), spline).
    """
    k = len(knots) - layer.basis.num_functions - 1
    elements = [
        BSpline.basis_element(knots[j : j + k + 2], extrapolate=False)
        for j in range(layer.basis.num_functions)
    ]
    splines = np.stack(
        [np.nan_to_num(e(x.double().numpy())) for e in elements], axis=2
    )  # (B, I, K)
    spline = F.linear(torch.from_numpy(splines).flatten(1), layer.basis_linear.weight.double())
    return F.linear(F.silu(x.double()), layer.base_linear.weight.double()) + spline


def test_a_layer_is_that_of_efficient_kan():
    layer = KANLinear(4, 3, grid_size=5, spline_order=3)
    x = torch.rand(60, 4) * 3 - 1.5
    knots = np.linspace(-1 - 3 * 0.4, 1 + 3 * 0.4, 12)
    torch.testing.assert_close(
        layer(x).double(), efficient_kan(x, layer, knots), atol=1e-5, rtol=1e-4
    )


def test_a_network_is_its_layers_one_after_the_other():
    net = kan(width=[6, 5, 3], basis="gram", degree=2)
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(net(x), net.layers[1](net.layers[0](x.flatten(1))))
    assert kanseg.kan is kan


@pytest.mark.parametrize("basis", kanseg.list_bases())
@pytest.mark.slow_except("gram", "bspline", "none")
def test_every_basis_learns_a_function_of_two_variables(basis):
    torch.manual_seed(0)
    x = torch.rand(256, 2) * 2 - 1
    y = torch.sin(2 * x[:, :1]) * x[:, 1:] ** 2
    net = kan([2, 6, 1], basis=basis)
    start = F.mse_loss(net(x), y).item()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
    assert loss < (1.0 if basis == "none" else 0.3) * min(start, y.var())


def test_edge_norms_over_data_are_the_mean_absolute_functions():
    layer = KANLinear(3, 2)
    x = torch.randn(50, 3)
    norms = layer.edge_norms(x)
    for i in range(3):
        alone = torch.zeros(50, 3)
        alone[:, i] = x[:, i]
        others = layer(torch.zeros(50, 3)) - layer_edge(layer, torch.zeros(50), i)
        torch.testing.assert_close(
            norms[:, i], (layer(alone) - others).abs().mean(0), atol=1e-5, rtol=1e-4
        )


def layer_edge(layer, x, i):
    weight = layer.basis_linear.weight.unflatten(1, (3, -1))[:, i]
    return (
        layer.basis(x[:, None].expand(-1, 3))[:, i] @ weight.T
        + F.silu(x)[:, None] * layer.base_linear.weight[:, i]
    )


def test_regularization_is_efficient_kans_l1_and_entropy():
    layer = KANLinear(3, 2)
    l1 = layer.basis_linear.weight.view(2, 3, -1).abs().mean(-1)
    p = l1 / l1.sum()
    expected = 0.5 * l1.sum() - 2 * (p * p.log()).sum()
    torch.testing.assert_close(layer.regularization(l1=0.5, entropy=2.0), expected)


def test_the_gradient_of_the_penalty_prefers_few_edges():
    net = kan([4, 3, 2])
    x = torch.randn(64, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    before = net.regularization(x, l1=0.0)
    for _ in range(50):
        optimizer.zero_grad()
        net.regularization(x).backward()
        optimizer.step()
    assert net.regularization(x, l1=0.0) < before


def test_grids_follow_the_data_through_the_layers():
    net = kan([3, 4, 2])
    x = 5 * torch.randn(500, 3) + 2
    net.update_grid(x)
    assert net.layers[0].off_grid_share(x) == 0
    assert net.layers[1].off_grid_share(net.layers[0](x)) == 0


def test_without_functions_it_is_a_perceptron():
    net = kan([6, 5, 4, 3], basis="none")
    plain = torch.nn.Sequential(
        *(
            module
            for a, b in ((6, 5), (5, 4), (4, 3))
            for module in (torch.nn.Linear(a, b), torch.nn.SiLU())
        )
    )[:-1]
    assert [p.shape for p in net.parameters()] and sum(p.numel() for p in net.parameters()) == sum(
        p.numel() for p in plain.parameters()
    )
    with torch.no_grad():
        for ours, theirs in zip(net.layers, plain[::2], strict=True):
            theirs.weight.copy_(ours.base_linear.weight)
            ours.bias.copy_(theirs.bias)
    x = torch.randn(9, 6)
    torch.testing.assert_close(net(x), plain(x))
    assert not torch.allclose(
        net(2 * x) - net(0 * x), 2 * (net(x) - net(0 * x)), atol=1e-3
    )  # no stack of linear maps
    linear = kan([6, 5, 3], basis="none", activation=None)
    torch.testing.assert_close(linear(2 * x) - linear(0 * x), 2 * (linear(x) - linear(0 * x)))


@pytest.mark.parametrize("basis", ["bspline", "none"])
def test_features_are_the_outputs_of_all_layers(basis):
    net = kan([6, 5, 4, 3], basis=basis)
    x = torch.randn(7, 2, 3)
    features = net.features(x)
    torch.testing.assert_close(features[-1], net(x))
    between = F.silu if basis == "none" else lambda y: y
    torch.testing.assert_close(features[0], between(net.layers[0](x.flatten(1))))
    torch.testing.assert_close(features[1], between(net.layers[1](features[0])))
    torch.testing.assert_close(features[2], net.layers[2](features[1]))


def test_widths_that_make_no_network_are_told():
    with pytest.raises(ValueError, match=r"such as \[784, 5, 5, 10\]"):
        kan([4])
