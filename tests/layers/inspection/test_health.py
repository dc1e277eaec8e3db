import pytest
import torch
from torch import nn

import kanseg
from kanseg.layers import KANActivation, KANConv2d, KANLinear, off_grid_shares
from kanseg.layers.inspection.health import FunctionMoments, measure_health, sampled_inputs


def drawn(layer):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def only(network, *batches):
    (health,) = measure_health(nn.Sequential(network), batches)
    return health


def statistics_of_values(layer, x):
    """Variance of every function, and squared correlation with its input, from the curve at each
    input x (C, n).
    """
    variances, correlations = [], []
    for channel, values in enumerate(x):
        phi = layer.curves(values).total
        phi = phi[:, channel] if phi.dim() > 2 else phi[layer.function_of_channel()[channel]]
        phi = phi.reshape(-1, len(values))
        variances.append(phi.var(1, correction=0))
        pairs = torch.stack([torch.corrcoef(torch.stack([values, each]))[0, 1] for each in phi])
        correlations.append(pairs.square())
    return torch.stack(variances, 1).flatten(), torch.stack(correlations, 1).flatten()


@pytest.mark.parametrize("basis", ["bspline", "gram", "fourier"])
@pytest.mark.parametrize("kind", [KANLinear, KANActivation])
@torch.no_grad()
def test_moments_are_those_of_the_curves_at_all_inputs(kind, basis):
    layer = KANLinear(3, 4, basis=basis) if kind is KANLinear else KANActivation(3, basis=basis)
    x = torch.randn(300, 3) * torch.tensor([0.3, 1.0, 2.0]) + 0.5
    moments = FunctionMoments(drawn(layer))
    for part in x.split(100):
        moments.update(sampled_inputs(layer, part))
    variance, r2 = moments.statistics()
    expected_variance, expected_r2 = statistics_of_values(layer, x.T)
    torch.testing.assert_close(variance.float(), expected_variance, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(r2.float(), expected_r2, rtol=2e-3, atol=1e-4)


@torch.no_grad()
def test_a_shared_function_has_the_variance_over_all_of_its_channels():
    layer = drawn(KANActivation(4, share=2))
    x = torch.randn(50, 4) * torch.tensor([0.1, 3.0, 1.0, 1.0])
    moments = FunctionMoments(layer)
    moments.update(sampled_inputs(layer, x))
    expected = [layer(x)[:, :2].var(correction=0), layer(x)[:, 2:].var(correction=0)]
    torch.testing.assert_close(moments.statistics()[0].float(), torch.stack(expected))


def test_off_grid_is_the_share_of_inputs_outside():
    layer = KANConv2d(2, 3, 3, basis="bspline", grid_range=(-1, 1))
    x = torch.randn(2, 2, 9, 9)
    health = only(layer, x)
    assert health.off_grid == pytest.approx((x.abs() > 1).double().mean().item())
    assert health.off_grid == pytest.approx(off_grid_shares(nn.Sequential(layer), x)["0"])
    assert health.saturated is None
    assert health.num_functions == 3 * 2 * 9


def test_saturated_is_the_share_where_the_slope_of_the_domain_map_is_below_5_percent():
    layer = KANActivation(2, basis="gram", domain="tanh")
    x = torch.randn(3, 2, 7, 7) * 3
    flat = 1 - torch.tanh(x).square() < 0.05
    health = only(layer, x)
    assert health.saturated == pytest.approx(flat.double().mean().item())
    assert health.off_grid is None


@torch.no_grad()
def test_dead_and_linear_functions_are_counted():
    layer = KANLinear(4, 1, basis="chebyshev", degree=3, domain="identity", base_activation=None)
    x = torch.rand(500, 4) * 2 - 1
    x[:, 3] = 0.5  # an input that does not vary
    weight = layer.basis_linear.weight.zero_().view(4, 4)
    weight[0, 0] = 5.0  # a constant function
    weight[1, 1], weight[1, 3] = 2.0, 0.01  # nearly a line
    weight[2, 2] = 1.0
    weight[3, 1] = 1.0
    health = only(layer, x)
    assert (health.dead, health.linear, health.num_functions) == (2, 1, 4)


@torch.no_grad()
def test_a_layer_without_any_variance_is_dead():
    health = only(KANActivation(3), torch.zeros(1, 3, 4, 4))
    assert (health.dead, health.linear) == (3, 0)


def test_advice_says_what_to_do():
    narrow = only(KANActivation(2, basis="bspline", grid_range=(-0.1, 0.1)), torch.randn(99, 2))
    assert any("update_grid" in line for line in narrow.advice)
    flat = only(KANActivation(2, basis="gram", base=None), torch.randn(99, 2) * 50)
    assert any("half_tanh" in line for line in flat.advice)
    dead = only(KANActivation(2), torch.zeros(99, 2))
    assert any("prune" in line for line in dead.advice)
    linear = only(KANActivation(2, base="identity"), torch.randn(99, 2))
    assert any("lines" in line for line in linear.advice)
    assert only(drawn(KANActivation(2)), torch.randn(99, 2)).advice == []


def test_several_batches_of_several_sizes_count_as_one():
    layer = drawn(KANConv2d(2, 2, 3, basis="rbf"))
    x = torch.randn(4, 2, 8, 8)
    assert only(layer, x) == only(layer, x[:1], x[1:])


@pytest.mark.parametrize("options", [{"experts": 2}, {"share": "edge"}, {"mixer": "attention"}])
def test_every_layer_of_a_network_is_measured_and_nothing_changes(options):
    network = kanseg.create_model("unet", width=4, depth=2, dropout=0.2, **options).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    health = measure_health(network, [torch.randn(1, 3, 32, 32)])
    assert {each.layer for each in health} <= dict(network.named_modules()).keys()
    assert len(health) >= 10
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(before[name].equal(value) for name, value in network.state_dict().items())
