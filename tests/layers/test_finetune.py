import copy

import pytest
import torch
from torch import nn

import kanseg
from kanseg.layers import ConvExperts, KANConv2d, KANLinear, finetune, fuse, kan_conv

bases = pytest.mark.parametrize("basis", ["bspline", "gram", "none"])


def trained(basis="gram", **options):
    """A network of functions of each edge whose batch norms have statistics."""
    net = kanseg.create_model("unet", width=4, depth=2, basis=basis, share="edge", **options)
    net(torch.randn(2, 3, 24, 24))
    return net.eval()


def step(net, x, lr=1.0):
    """One step of plain gradient descent on all that may train."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=lr)
    net(x).square().mean().backward()
    optimizer.step()


@bases
def test_low_ranks_start_as_the_same_function_to_the_last_bit(basis):
    net, x = trained(basis), torch.randn(1, 3, 61, 83)
    before = net(x)
    assert torch.equal(finetune(net, rank=3)(x), before)
    assert torch.equal(copy.deepcopy(net)(x), before)


def test_the_number_of_trained_parameters_is_that_of_the_two_factors():
    layer = finetune(KANConv2d(6, 8, 3, basis="gram", degree=3), rank=2)
    counts = {name: p.numel() for name, p in layer.named_parameters() if p.requires_grad}
    assert sum(counts.values()) == 2 * (8 + 6 * 4 * 9) + 2 * (8 + 6 * 9)
    assert all("parametrizations" in name for name in counts)


@bases
def test_a_step_changes_the_deltas_only_and_fusing_keeps_the_function(basis):
    net, x = trained(basis), torch.randn(1, 3, 33, 40)
    keys, kinds = set(net.state_dict()), [type(m) for m in net.modules()]
    original = {name: p.clone() for name, p in net.named_parameters()}
    finetune(net, rank=2)
    frozen = {name: p.clone() for name, p in net.named_parameters() if not p.requires_grad}
    step(net, x)
    step(net, x)  # the second moves the lower factors too, whose gradient is zero at the start
    now = dict(net.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters() if p.requires_grad
    )
    before = net(x)
    assert (fuse(net)(x) - before).abs().max() <= 1e-6
    assert set(net.state_dict()) == keys
    assert [type(m) for m in net.modules()] == kinds
    assert all(p.requires_grad for p in net.parameters())
    twin = kanseg.create_model("unet", width=4, depth=2, share="edge", basis=basis)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin.eval()(x), net(x))
    changed = [name for name, p in net.named_parameters() if not torch.equal(p, original[name])]
    assert changed
    assert all(name.endswith(("basis_conv.weight", "base_conv.weight")) for name in changed)
    sizes = [
        torch.linalg.svdvals((net.get_parameter(name) - original[name]).detach().flatten(1))
        for name in changed
    ]
    assert max(s[1] for s in sizes) > 1e-4
    assert all((s[2:] < 1e-5).all() for s in sizes)  # rank 2, but for rounding


def test_a_flat_layer_is_its_matrix_plus_the_product():
    layer = KANLinear(5, 3, basis="none")
    finetune(layer, rank=1)
    pair = layer.base_linear.parametrizations.weight[0]
    nn.init.normal_(pair.up)
    x = torch.randn(4, 5)
    matrix = layer.base_linear.parametrizations.weight.original + torch.outer(
        pair.up[:, 0], pair.down[0]
    )
    torch.testing.assert_close(layer(x), x @ matrix.T)


@pytest.mark.parametrize("basis", ["gram", "legendre", "chebyshev", "jacobi", "hermite"])
def test_added_degrees_alone_train_and_the_result_is_the_network_of_that_degree(basis):
    net, x = trained(basis, degree=3, stem=None), torch.randn(1, 3, 30, 41)
    before, original = net(x), {name: p.clone() for name, p in net.named_parameters()}
    finetune(net, extra_degrees=2)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
    weights = [m.basis_conv.weight.numel() for m in net.modules() if isinstance(m, KANConv2d)]
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == sum(weights) * 2 // 6
    step(net, x)
    assert all(p.grad.abs().max() > 0 for p in net.parameters() if p.requires_grad)
    tuned = net(x)
    assert (fuse(net)(x) - tuned).abs().max() <= 1e-6
    for name, p in net.named_parameters():
        if name.endswith("basis_conv.weight"):
            assert torch.equal(
                p.unflatten(1, (-1, 6))[:, :, :4], original[name].unflatten(1, (-1, 4))
            )
        else:
            assert torch.equal(p, original[name])
    twin = kanseg.create_model(
        "unet", width=4, depth=2, share="edge", basis=basis, degree=5, stem=None
    )
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin.eval()(x), net(x))


@pytest.mark.parametrize("share", ["edge", "channel", "layer"])
def test_chosen_degrees_change_alone(share):
    layer = KANConv2d(3, 4, 3, basis="legendre", degree=3, share=share).eval()
    functions = layer if share == "edge" else layer.activation
    before = functions.functions_weight.detach().clone().unflatten(1, (-1, 4))
    x = torch.randn(1, 3, 9, 9)
    was = layer(x)
    finetune(layer, trainable_degrees=[0, 2, 9])
    assert torch.equal(layer(x), was)
    step(layer, x)
    tuned = layer(x)
    fuse(layer)
    torch.testing.assert_close(layer(x), tuned, rtol=0, atol=1e-6)
    same = (
        (functions.functions_weight.unflatten(1, (-1, 4)) == before)
        .transpose(1, 2)
        .flatten(2)
        .all(dim=2)
        .all(dim=0)
    )
    assert same.tolist() == [False, True, False, True]


def test_functions_that_are_all_new_all_train():
    x = torch.randn(1, 3, 9, 9)
    for options, asked, functions in (
        ({"basis": "bernstein"}, {"extra_degrees": 1}, 5),
        ({"basis": "bspline", "spline_order": 2}, {"grid_size": 10}, None),
    ):
        layer = KANConv2d(3, 4, 3, **options).eval()
        before = layer(x)
        finetune(layer, **asked)
        torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
        (delta,) = (p for p in layer.parameters() if p.requires_grad)
        assert delta.shape[:3] == (4, 3, functions or layer.basis.num_functions)
        step(layer, x)
        tuned = layer(x)
        torch.testing.assert_close(fuse(layer)(x), tuned, rtol=0, atol=1e-6)


def test_ranks_and_degrees_go_together_and_into_mixtures():
    net = ConvExperts(
        3, 4, 3, padding=1, conv=kan_conv(basis="gram"), num_experts=2, top_k=2
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    before = net(x)
    finetune(net, rank=2, extra_degrees=1, keep=["gate"])
    torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-5)
    step(net, x)
    tuned = net(x)
    torch.testing.assert_close(fuse(net)(x), tuned, rtol=0, atol=1e-6)


def test_heads_and_norms_can_stay_trainable():
    net = finetune(trained(), rank=1, keep=["segmentation_head.*", "*.norm.*"])
    free = {
        name
        for name, p in net.named_parameters()
        if p.requires_grad and "parametrizations" not in name
    }
    expected = {
        name
        for name, _ in net.named_parameters()
        if name.startswith("segmentation_head.") or ".norm." in name
    }
    assert free == expected
    assert len(free) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "rank=None"),
        ({"rank": 0}, "rank=0"),
        ({"extra_degrees": -1}, "extra_degrees=-1"),
        ({"rank": 1, "keep": ["head.*"]}, r"head\.\*"),
        ({"grid_size": 7}, "got 7"),
        ({"trainable_degrees": [12]}, "no suitable layer"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_changes(options, message):
    net = trained()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        finetune(net, **options)
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_tuning_twice_needs_a_fuse_between():
    net = finetune(trained(), rank=1)
    with pytest.raises(ValueError, match="fuse it first"):
        finetune(net, rank=1)
    finetune(fuse(net), rank=1)


def test_copies_are_fused_each_by_itself():
    net = kanseg.create_model("unet", width=2, depth=1).eval()
    x = torch.randn(1, 3, 8, 8)
    finetune(net, rank=1)
    twin = copy.deepcopy(net)
    expected = net(x)
    for each in (net, twin):
        torch.testing.assert_close(fuse(each)(x), expected)


def test_wrapped_parts_are_told_before_anything_changes():
    layer = KANConv2d(2, 3, 1)
    layer.basis_conv = torch.nn.Sequential(layer.basis_conv)
    with pytest.raises(ValueError, match="basis_conv .* Sequential"):
        finetune(layer, rank=1)
    assert all(p.requires_grad for p in layer.parameters())
