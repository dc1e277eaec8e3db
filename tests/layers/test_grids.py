import pytest
import torch
from scipy.interpolate import BSpline as ScipySpline
from torch.nn.utils import prune

from kanseg.bases import create_basis
from kanseg.layers import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANLinear,
    off_grid_shares,
    refine_grids,
    update_grids,
)
from kanseg.models import kan


def plain(conv, *args, **options):
    return conv(*args, norm=None, activation=None, **options)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("share", ["edge", "channel", "layer"])
def test_a_finer_grid_computes_the_same_function_everywhere(order, times, share):
    layer = KANLinear(2, 3, spline_order=order, share=share, grid_size=4, dtype=torch.float64)
    x = torch.rand(300, 2, dtype=torch.float64) * 6 - 3
    before = layer(x)
    layer.refine(4 * times)
    assert (layer(x) - before).abs().max() < 1e-9


def test_in_single_precision_the_same_function_is_within_1e_6():
    layer = KANLinear(2, 3)
    x = torch.rand(300, 2) * 6 - 3
    before = layer(x)
    layer.refine(10)
    assert (layer(x) - before).abs().max() < 1e-6


def test_without_tails_the_function_is_the_same_on_the_grid_with_fewer_functions():
    layer = KANLinear(2, 3, grid_size=5)
    x = torch.rand(300, 2) * 2 - 1
    before = layer(x)
    layer.refine(10, keep_tails=False)
    assert layer.basis.num_functions == 13
    assert (layer(x) - before).abs().max() < 1e-6


@pytest.mark.parametrize("conv", [KANConv1d, KANConv2d, KANConv3d])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_refine_with_groups_and_bottleneck(conv, groups):
    layer = plain(conv, 4, 6, 3, padding=1, groups=groups, inner_channels=2).double()
    x = torch.randn(2, 4, *[5] * layer.ndim, dtype=torch.float64)
    before = layer(x)
    layer.refine(10)
    torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=0)
    assert layer.basis_conv.in_channels == layer.basis_conv.weight.shape[1] * groups


def test_the_change_to_half_the_step_is_the_two_scale_relation():
    basis = create_basis("bspline", 1, grid_size=4, grid_range=(0, 4)).double()
    change = basis.refine(8)[0]
    row = change[2][change[2].abs() > 1e-9]
    torch.testing.assert_close(
        row, torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float64) / 8
    )


def test_refining_keeps_adapted_grids_too():
    layer = KANLinear(3, 2)
    x = torch.randn(500, 3) * torch.tensor([1.0, 3.0, 0.2]) + 1
    layer.update_grid(x)
    before = layer(x)
    layer.refine(15)
    assert (layer(x) - before).abs().max() < 2e-6


def test_adapted_knots_give_scipys_splines_and_derivatives():
    basis = create_basis("bspline", 2)
    basis.update_grid(torch.stack([torch.randn(999), torch.rand(999) ** 3]))
    u = torch.rand(1, 2, 50) * 0.8 + 0.05
    for channel in range(2):
        t = basis.knots[channel].double().numpy()
        for j, (value, slope) in enumerate(basis.terms(u, slopes=True)):
            spline = ScipySpline.basis_element(t[j : j + 5], extrapolate=False)
            expected = torch.from_numpy(spline(u[0, channel].double().numpy())).nan_to_num()
            torch.testing.assert_close(value[0, channel].double(), expected, atol=1e-5, rtol=0)
            expected = torch.from_numpy(
                spline.derivative()(u[0, channel].double().numpy())
            ).nan_to_num()
            torch.testing.assert_close(slope[0, channel].double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("basis", ["bspline", "rbf"])
def test_an_updated_grid_holds_the_data_and_follows_its_density(basis):
    layer = KANLinear(2, 3, basis=basis)
    x = torch.rand(2000, 2) ** 2 + 5
    assert layer.off_grid_share(x) > 0.5
    layer.update_grid(x)
    assert layer.off_grid_share(x) <= (0.021 if basis == "rbf" else 0)
    if basis == "bspline":
        inner = layer.basis.knots[0, 3:-3].contiguous()
        counts = torch.histogram(x[:, 0], inner)[0]
        assert counts.min() > 0.5 * counts.mean()


def test_an_update_refits_the_functions_to_what_they_were_on_the_data():
    layer = KANLinear(2, 3, grid_size=8, grid_range=(-3, 3))
    x = torch.randn(4000, 2).clamp(-2.5, 2.5)
    before = layer(x)
    layer.update_grid(x)
    assert (layer(x) - before).square().mean() < 0.02 * before.var()


def test_constant_and_tied_inputs_do_not_break_an_update():
    layer = KANLinear(3, 2)
    layer.update_grid(
        torch.stack([torch.zeros(50), torch.ones(50) * 7, torch.arange(50) % 2], dim=1).float()
    )
    y = layer(torch.randn(20, 3, requires_grad=True))
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert (layer.basis.knots.diff(dim=1) > 0).all()


@pytest.mark.parametrize(
    "basis", ["legendre", "chebyshev", "gram", "jacobi", "bernstein", "hermite"]
)
@pytest.mark.parametrize(("low", "high"), [(0, 2), (2, 5), (3, 3)])
def test_a_higher_degree_computes_the_same_function(basis, low, high):
    layer = plain(KANConv2d, 4, 4, 3, padding=1, groups=2, basis=basis, degree=low)
    x = torch.randn(2, 4, 5, 5)
    before = layer(x)
    layer.raise_degree(high)
    assert layer.basis.num_functions == high + 1
    torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=0)


def test_learned_recurrences_keep_what_they_learned():
    layer = KANLinear(2, 2, basis="gram", degree=3, learnable=True)
    with torch.no_grad():
        layer.basis.beta.add_(0.1)
    x = torch.randn(50, 2)
    before = layer(x)
    layer.raise_degree(6)
    torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=0)
    assert layer.basis.beta.shape == (5,)


def test_a_refined_layer_trains_and_loads():
    layer = KANLinear(2, 2)
    layer.refine(10)
    twin = KANLinear(
        2,
        2,
        grid_size=layer.basis.grid_size,
        grid_range=tuple(v[0].item() for v in layer.basis.grid_limits()),
    )
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(9, 2)
    torch.testing.assert_close(twin(x), layer(x))
    layer(x).sum().backward()
    assert layer.basis_linear.weight.grad.abs().sum() > 0


def test_an_adapted_grid_is_adapted_after_loading():
    layer, twin = KANLinear(2, 2), KANLinear(2, 2)
    layer.update_grid(torch.randn(100, 2) ** 3)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(50, 2)
    assert not twin.basis.uniform
    torch.testing.assert_close(twin(x), layer(x))


def test_grids_refine_again_and_again():
    layer = KANLinear(2, 3, dtype=torch.float64)
    x = torch.rand(300, 2, dtype=torch.float64) * 6 - 3
    before = layer(x)
    layer.refine(10)
    layer.refine(20)
    assert (layer(x) - before).abs().max() < 1e-9


def test_knots_copied_past_load_state_dict_are_seen():
    layer, twin = KANLinear(2, 2), KANLinear(2, 2)
    layer.update_grid(torch.randn(100, 2) ** 3)
    x = torch.randn(50, 2)
    torch.testing.assert_close(torch.func.functional_call(twin, layer.state_dict(), (x,)), layer(x))
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            twin.state_dict()[name].copy_(value)
    torch.testing.assert_close(twin(x), layer(x))


def test_a_frozen_layer_stays_frozen():
    layer = KANLinear(2, 2).requires_grad_(False)
    layer.refine(10)
    assert not any(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize("value", [255.0, 1e5, -3e6])
def test_a_channel_of_one_large_value_keeps_its_knots_apart(value):
    layer = KANLinear(2, 2)
    x = torch.randn(100, 2)
    x[:, 1] = value
    layer.update_grid(x)
    assert (layer.basis.knots.diff(dim=1) > 0).all()
    assert torch.isfinite(layer(x)).all()


@pytest.mark.parametrize(
    "bad", [torch.full((5, 2), float("nan")), torch.full((5, 2), float("inf")), torch.zeros(0, 2)]
)
@pytest.mark.parametrize("basis", ["bspline", "rbf"])
def test_inputs_that_no_grid_can_follow_change_nothing(basis, bad):
    layer = KANLinear(2, 2, basis=basis)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    with pytest.raises(ValueError, match="finite inputs only"):
        layer.update_grid(bad)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_looking_at_grids_leaves_the_statistics_of_norms_alone():
    model = torch.nn.Sequential(KANConv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    before = model[1].running_mean.clone()
    off_grid_shares(model, torch.randn(2, 3, 8, 8))
    assert torch.equal(model[1].running_mean, before)
    assert model.training
    assert model[0].training


def test_a_whole_model_adapts_layer_by_layer():
    model = torch.nn.Sequential(
        KANConv2d(3, 4, 3, padding=1),
        KANConv2d(4, 4, 3, padding=1, basis="rbf"),
        KANConv2d(4, 2, 1, basis="gram"),
    ).eval()
    x = 4 * torch.randn(2, 3, 16, 16) + 3
    before = off_grid_shares(model, x)
    update_grids(model, x)
    after = off_grid_shares(model, x)
    assert list(before) == ["0", "1"]
    assert before["0"] > 0.6
    assert max(after.values()) < 0.03


def test_a_whole_model_refines_its_splines():
    model = torch.nn.Sequential(
        KANConv2d(3, 4, 3, padding=1), KANConv2d(4, 2, 1, basis="gram")
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    refine_grids(model, 10)
    torch.testing.assert_close(model(x), before, atol=2e-6, rtol=0)


def test_a_flat_kan_refines():
    net = kan([3, 4, 2])
    x = torch.randn(50, 3)
    before = net(x)
    net.refine(20)
    torch.testing.assert_close(net(x), before, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: KANLinear(2, 2, grid_size=5).refine(7), "multiple of the present 5, got 7"),
        (lambda: KANLinear(2, 2, basis="rbf").refine(16), "only B-splines can be refined"),
        (lambda: KANLinear(2, 2, basis="gram").update_grid(torch.randn(4, 2)), "Gram has no grid"),
        (
            lambda: KANLinear(2, 2, basis="bspline").raise_degree(5),
            "BSpline has no degree to raise",
        ),
        (lambda: KANLinear(2, 2, basis="gram").raise_degree(2), "at least 3, got 2"),
        (
            lambda: KANLinear(2, 2, basis="none").update_grid(torch.randn(4, 2)),
            "no functions and no grid",
        ),
        (lambda: KANLinear(2, 2, basis="none").refine(10), "no functions"),
        (lambda: refine_grids(kan([2, 2]), 8), "multiple of the present 5, got 8"),
    ],
)
def test_what_cannot_be_done_is_said(change, message):
    with pytest.raises(ValueError, match=message):
        change()


def test_pruned_layer_tells_its_share_off_the_grid_but_cannot_be_refitted():
    layer, x = KANLinear(2, 3, basis="bspline"), torch.tensor([[0.0, 2.0]])
    prune.identity(layer.basis_linear, "weight")
    assert layer.off_grid_share(x) == 0.5
    with pytest.raises(ValueError, match="pruned"):
        layer.update_grid(x)
