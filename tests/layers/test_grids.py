import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
from scipy.interpolate import BSpline as ScipySpline
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from kanseg.bases import create_basis
from kanseg.layers import (
    KANActivation,
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANLinear,
    off_grid_shares,
    refine_functions,
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
    options = {"spline_order": order, "grid_size": 4, "grid_range": (-1.0, 1.0)}
    layer = KANLinear(2, 3, share=share, dtype=torch.float64, **options)
    functions = layer if share == "edge" else layer.base_activation
    torch.nn.init.normal_(functions.functions_weight)
    x = torch.rand(300, 2, dtype=torch.float64) * 6 - 3
    before = layer(x)
    functions.refine(4 * times)
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
        for j, (value, slope) in enumerate(basis.values_and_derivatives(u, derivatives=True)):
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
    with pytest.raises(ValueError, match="update_grid needs (finite )?inputs"):
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
        (lambda: KANLinear(2, 2, grid_size=5).refine(7), "5, got 7"),
        (lambda: KANLinear(2, 2, basis="rbf").refine(16), "B-splines"),
        (lambda: KANLinear(2, 2, basis="gram").update_grid(torch.randn(4, 2)), "Gram .* grid"),
        (
            lambda: KANLinear(2, 2, basis="bspline").raise_degree(5),
            "BSpline .* degree",
        ),
        (lambda: KANLinear(2, 2, basis="gram").raise_degree(2), "at least 3, got 2"),
        (
            lambda: KANLinear(2, 2, basis="none").update_grid(torch.randn(4, 2)),
            "basis 'none'",
        ),
        (lambda: KANLinear(2, 2, basis="none").refine(10), "basis 'none'"),
        (lambda: refine_grids(kan([2, 2]), 8), "5, got 8"),
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


def column_images(batch=8, side=64):
    """Images (B, 1, H, W) of which each column has its own mean, from -4 to 4."""
    noise = torch.randn(batch, 1, side, side) * 0.3
    return noise + torch.linspace(-4, 4, side)


@pytest.mark.parametrize("basis", ["bspline", "rbf"])
@pytest.mark.parametrize(("batch", "side"), [(64, 64), (8, 128), (9, 100)])
def test_the_grid_of_images_is_that_of_their_shuffled_pixels(basis, batch, side):
    x = column_images(batch, side)
    shuffled = x.flatten()[torch.randperm(x.numel())].view_as(x)
    grids = []
    for images in (x, shuffled):
        layer = plain(KANConv2d, 1, 1, 3, basis=basis)
        layer.update_grid(images)
        b = layer.basis
        grids.append(b.knots[0, 3:-3] if basis == "bspline" else torch.cat(b.grid_limits()))
        assert layer.off_grid_share(images) < (0.03 if basis == "rbf" else 0.002)
    # 4096 of n values: the standard error of a quantile is about 1/64 of the range times 1/2.
    assert (grids[0] - grids[1]).abs().max() < 0.5


def test_samples_are_drawn_by_a_seed_of_their_own():
    x, layers = column_images(), [plain(KANConv2d, 1, 1, 3) for _ in range(3)]
    before = torch.get_rng_state()
    for layer, seed in zip(layers, (0, 0, 1), strict=True):
        layer.update_grid(x, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (layer.basis.knots for layer in layers)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def fit(net, optimizer, x, y, steps, change=None):
    for step in range(steps):
        if change is not None and step % 50 == 10:
            change()
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.slow_except("False")
def test_a_network_goes_on_learning_with_the_optimizer_that_it_has(named):
    x = torch.rand(256, 2) * 4 - 2
    y = torch.sin(2 * x[:, :1]) * x[:, 1:]
    net = kan([2, 5, 1])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    ours = optimizer if named else None
    loss = fit(net, optimizer, x, y, 300, lambda: net.update_grid(x, optimizer=ours))
    assert loss < (0.005 if named else 0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=1e-2),
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        lambda p: torch.optim.LBFGS(p, lr=0.1),
    ],
)
@pytest.mark.parametrize(
    "change",
    [
        lambda net, x, optimizer: update_grids(net, x, optimizer=optimizer),
        lambda net, x, optimizer: refine_grids(net, 10, optimizer=optimizer),
    ],
)
def test_parameters_stay_the_same_objects_and_their_moments_start_anew(make, change):
    net = torch.nn.Sequential(KANLinear(2, 3), torch.nn.Linear(3, 1))
    x, optimizer = torch.randn(50, 2), make(net.parameters())

    def closure():
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    kept = dict(optimizer.state[net[1].weight])
    before = list(net.parameters())
    change(net, x, optimizer)
    after = list(net.parameters())
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert net[0].basis_linear.weight not in optimizer.state
    assert isinstance(optimizer, torch.optim.LBFGS) or optimizer.state[net[1].weight] == kept
    optimizer.step(closure)


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        (KANLinear(2, 3, basis="bspline"), lambda net: refine_grids(net, 10)),
        (KANActivation(2, basis="bspline"), lambda net: refine_grids(net, 12)),
        (KANActivation(2, learnable=True), lambda net: net[0].raise_degree(5)),
    ],
    ids=["edge", "grid", "degree"],
)
def test_a_loss_that_is_still_there_does_not_hinder_a_finer_network(layer, change):
    net, x = torch.nn.Sequential(layer), torch.randn(20, 2)
    loss = net(x).square().mean()
    loss.backward()
    change(net)
    loss, _ = net(x).square().mean(), loss
    loss.backward()
    assert all(each.grad.shape == each.shape for each in net.parameters())


def test_refining_under_an_optimizer_that_is_not_named_does_not_go_unnoticed():
    net, x = KANLinear(2, 3), torch.randn(50, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).sum().backward()
    optimizer.step()
    net.refine(10)
    net(x).sum().backward()
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()


@pytest.mark.parametrize("basis", ["bspline", "rbf"])
def test_an_average_of_the_weights_gets_the_same_grids_and_keeps_its_functions(basis):
    options = {"grid_range": (-3, 3), "grid_size": 12}
    net = torch.nn.Sequential(KANLinear(2, 3, basis=basis, **options))
    average = AveragedModel(net, use_buffers=True)
    with torch.no_grad():
        average.module[0].basis_linear.weight.mul_(1.5)
    x = torch.randn(4000, 2).clamp(-2.5, 2.5)
    before = average(x)
    update_grids(net, x, copies=[average])
    for key, value in net[0].basis.state_dict().items():
        assert torch.equal(average.module[0].basis.state_dict()[key], value)
    assert (average(x) - before).square().mean() < 0.02 * before.var()
    average.update_parameters(net)


def test_several_batches_count_as_one():
    batches = [torch.randn(20, 3), torch.randn(30, 3) + 2]
    nets = [kan([3, 2]) for _ in range(2)]
    update_grids(nets[0], batches)
    update_grids(nets[1], torch.cat(batches))
    assert torch.equal(nets[0].layers[0].basis.knots, nets[1].layers[0].basis.knots)
    with pytest.raises(ValueError, match="one size"):
        update_grids(nets[0], [torch.randn(4, 3), torch.randn(4, 2)])


@pytest.mark.parametrize("wrapped", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.slow
def test_a_compiled_network_follows_its_grids(wrapped):
    torch._dynamo.reset()
    net = kan([3, 2])
    compiled = torch.compile(net, backend="eager")
    x = torch.randn(64, 3).exp()
    compiled(x)
    for size in (None, 10):
        if size is None:
            update_grids(compiled if wrapped else net, x)
        else:
            refine_grids(compiled if wrapped else net, size)
        torch.testing.assert_close(compiled(x), copy.deepcopy(net)(x))


@pytest.mark.parametrize("change", ["prune", "parametrize"])
def test_shared_functions_that_are_made_of_others_are_refused(change):
    functions = KANConv2d(2, 3, 3, share="channel").activation
    if change == "prune":
        prune.identity(functions, "weight")
    else:
        torch.nn.utils.parametrize.register_parametrization(
            functions, "weight", torch.nn.Identity()
        )
    with pytest.raises(ValueError, match="parametrized or pruned"):
        functions.refine(12)


def _two_processes(rank, port, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = torch.nn.Sequential(KANConv2d(3, 4, 3, norm="layer"), KANConv2d(4, 2, 3, basis="rbf"))
    wrapped = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank)) * (rank + 1)

    def step():
        optimizer.zero_grad()
        wrapped(x).square().mean().backward()
        optimizer.step()

    step()
    update_grids(wrapped, x, optimizer=optimizer)
    step()
    step()
    refused = failed = ""
    try:
        net[0].refine(10)
    except ValueError as error:
        refused = str(error)
    try:  # every process learns that the first one could not
        update_grids(wrapped, torch.full_like(x, torch.nan) if rank == 0 else x)
    except ValueError as error:
        failed = str(error)
    torch.save((net.state_dict(), refused, failed), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_keep_the_same_grids_and_weights(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_two_processes, (port, tmp_path), nprocs=2)
    (first, refused, failed), (second, *_, failed_too) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(2)
    )
    norms = ("running_mean", "running_var")  # of each process's own samples
    for key, value in first.items():
        assert key.endswith(norms) or torch.equal(value, second[key]), key
    assert not torch.equal(first["0.basis.knots"], KANConv2d(3, 4, 3).basis.knots)
    assert "DistributedDataParallel" in refused
    assert "finite inputs" in failed
    assert "finite inputs" in failed_too


@pytest.mark.parametrize("part", ["basis", "basis_conv"])
@pytest.mark.parametrize("wrong", [update_grids, lambda net, x: refine_grids(net, 10)])
def test_layers_that_share_functions_are_refused_before_anything_changes(part, wrong):
    """A refit for the one would be another function in the other."""
    net = torch.nn.Sequential(*(plain(KANConv2d, 2, 2, 1) for _ in range(2)))
    setattr(net[1], part, getattr(net[0], part))
    x = torch.randn(2, 2, 4, 4)
    before = net(x)
    with pytest.raises(ValueError, match="share one (basis|functions_weight)"):
        wrong(net, x)
    assert torch.equal(net(x), before)


class Wrapper(torch.nn.Module):
    """As of LoRA: the layer is inside."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def test_a_layer_with_a_wrapped_part_is_not_passed_over():
    net = torch.nn.Sequential(KANConv2d(2, 2, 1), KANConv2d(2, 2, 1))
    net[1].basis_conv = Wrapper(net[1].basis_conv)
    x = torch.randn(2, 2, 4, 4)
    for change in (lambda: update_grids(net, x), lambda: refine_grids(net, 10)):
        with pytest.raises(ValueError, match="basis_conv .* Wrapper"):
            change()
    assert net[0].basis.grid_size == 5
    assert set(off_grid_shares(net, x)) == {"0", "1"}


def convolutions(basis, **options):
    """A network of a convolution per edge, one with shared functions, and a plain one."""
    return torch.nn.Sequential(
        KANConv2d(2, 4, 3, padding=1, basis=basis, **options),
        KANConv2d(4, 4, 3, padding=1, basis=basis, share="channel", **options),
        KANConv2d(4, 2, 1, basis="none"),
    )


@pytest.mark.parametrize(
    ("basis", "coarse", "fine"),
    [
        ("bspline", {"grid_size": 3}, {"grid_size": 12}),
        ("gram", {"degree": 2, "learnable": True}, {"degree": 4}),
        ("chebyshev", {"degree": 2}, {"degree": 3}),
        ("bernstein", {"degree": 2}, {"degree": 3}),
        ("hermite", {"degree": 2}, {"degree": 5}),
    ],
)
def test_a_refined_network_computes_the_same_and_its_optimizer_goes_on(basis, coarse, fine):
    network = convolutions(basis, **coarse)
    torch.nn.init.normal_(network[1].activation.weight)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x = torch.randn(2, 2, 8, 8)
    network(x).square().mean().backward()
    optimizer.step()
    network.eval()
    parameters, before = list(network.parameters()), network(x).detach()
    assert refine_functions(network, **fine, optimizer=optimizer) == ["0", "1.activation"]
    torch.testing.assert_close(network(x), before, atol=1e-5, rtol=1e-5)
    assert all(ours is old for ours, old in zip(network.parameters(), parameters, strict=True))
    assert network[0].functions_weight not in optimizer.state
    assert network[2].base_conv.weight in optimizer.state
    network.train()
    for _ in range(2):
        optimizer.zero_grad()
        loss = network(x).square().mean()
        loss.backward()
        optimizer.step()
    assert network(x).square().mean() < loss


def test_a_network_refined_in_steps_has_the_grids_of_one_refined_at_once():
    network, other = convolutions("bspline", grid_size=3), convolutions("bspline", grid_size=3)
    for size in (6, 12):
        refine_functions(network, grid_size=size)
    refine_functions(other, grid_size=12)
    for name, value in other.state_dict().items():
        assert network.state_dict()[name].shape == value.shape
        if name.endswith("knots"):
            torch.testing.assert_close(network.state_dict()[name], value)
    update_grids(network, torch.randn(2, 2, 8, 8))
    refine_functions(network, grid_size=24)
    refine_functions(other, grid_size=24)
    assert network[0].basis.num_functions == other[0].basis.num_functions == 8 * (3 + 6) - 6 + 3


def test_layers_that_are_as_fine_already_stay_as_they_are():
    network = torch.nn.Sequential(
        plain(KANConv2d, 2, 2, 1, grid_size=8), plain(KANConv2d, 2, 2, 1, grid_size=2)
    )
    assert refine_functions(network, grid_size=4) == ["1"]
    with pytest.raises(ValueError, match=r"^0: .*multiple of the current 8, got 12"):
        refine_functions(network, grid_size=12)
    assert network[1].basis.nominal_size == 4
    for finer in ({"grid_size": 4}, {"degree": 3}):
        with pytest.raises(ValueError, match="no layer of this network"):
            refine_functions(network, **finer)
