import pytest
import torch
from torch.utils.checkpoint import checkpoint

from kanseg.layers import KANConv2d, KANLinear, NoiseInjection, Penalty


def test_noise_hits_a_share_of_the_entries_with_the_scale_of_their_channel():
    x = torch.randn(8, 2, 50, 50) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    noise = NoiseInjection(p=0.3, alpha=0.1)(x) - x
    hit = noise != 0
    assert abs(hit.float().mean() - 0.3) < 0.01
    assert abs(noise[:, 0][hit[:, 0]].std() - 0.1) < 0.01
    assert abs(noise[:, 1][hit[:, 1]].std() - 1.0) < 0.1
    assert torch.equal(NoiseInjection(0.3).eval()(x), x)


def branches(place, **options):
    """How the two branches of a layer react: its functions' and its base branch's output in
    training, for an input of ones.
    """
    layer = KANConv2d(
        64,
        2,
        1,
        basis="gram",
        base_activation="identity",
        norm=None,
        activation=None,
        dropout_at=place,
        **options,
    )
    x = torch.ones(1, 64, 2, 2)
    functions, base = (
        layer.base_conv.weight.detach().clone(),
        layer.basis_conv.weight.detach().clone(),
    )
    outputs = {}
    for name in ("functions", "base"):
        with torch.no_grad():
            layer.base_conv.weight.copy_(
                functions if name == "base" else torch.zeros_like(functions)
            )
            layer.basis_conv.weight.copy_(base if name == "functions" else torch.zeros_like(base))
        outputs[name] = not torch.allclose(layer.train()(x), layer.eval()(x), atol=1e-5)
    return outputs


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"noise": 1.0}])
def test_dropout_and_noise_reach_both_branches_or_the_functions_only(options):
    x_has_no_spread = (
        "noise" in options
    )  # noise is in proportion to the channel's deviation: none for an input of ones
    if x_has_no_spread:
        layer = KANConv2d(4, 2, 1, basis="gram", norm=None, **options)
        x = torch.randn(2, 4, 3, 3)
        assert not torch.allclose(layer.train()(x), layer.eval()(x))
        return
    assert branches("input", **options) == {"functions": True, "base": True}
    assert branches("branch", **options) == {"functions": True, "base": False}
    assert branches("functions", **options) == {"functions": True, "base": False}


def test_dropped_functions_leave_the_expected_output_unchanged():
    layer = KANConv2d(
        4,
        2,
        3,
        padding=1,
        basis="legendre",
        base_activation=None,
        norm=None,
        activation=None,
        dropout=0.3,
        dropout_at="functions",
    )
    x = torch.randn(1, 4, 6, 6)
    mean = layer.train()(x.expand(6000, -1, -1, -1)).mean(0)
    torch.testing.assert_close(mean, layer.eval()(x)[0], atol=0.06, rtol=0)


@pytest.mark.parametrize("share", ["edge", "channel"])
def test_functions_are_dropped_whole(share):
    layer = KANLinear(3, 2, basis="gram", share=share, dropout=0.5, dropout_at="functions")
    mask = layer.feature_noise.dropout_mask(torch.randn(1000, 3), 4)
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    layer(torch.randn(5, 3)).sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.5}, "dropout .* 1.5"),
        ({"dropout_at": "output"}, "input, branch, functions"),
        ({"noise": 0.1, "dropout_at": "functions"}, "noise"),
    ],
)
def test_bad_settings_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        KANConv2d(2, 2, 3, **options)


def test_l1_of_the_weights_adds_its_sign_to_the_gradient():
    layer = KANConv2d(2, 3, 3, basis="gram")
    x = torch.randn(2, 2, 6, 6)
    layer(x).square().sum().backward()
    plain = layer.basis_conv.weight.grad.clone()
    layer.zero_grad()
    penalty = Penalty(layer, {"weights_l1": 0.5})
    (layer(x).square().sum() + penalty()).backward()
    weight = layer.basis_conv.weight
    torch.testing.assert_close(
        weight.grad, plain + 0.5 * weight.sign() / weight.numel(), rtol=1e-3, atol=1e-3
    )


def test_penalties_on_outputs_are_their_means():
    layers = torch.nn.Sequential(KANLinear(3, 4), KANLinear(4, 2))
    penalty = Penalty(layers, {"activations_l1": 2.0, "activations_l2": 3.0})
    x = torch.randn(7, 3)
    hidden = layers[0](x)
    out = layers[1](hidden)
    expected = sum(2 * y.abs().mean() + 3 * y.square().mean() for y in (hidden, out))
    torch.testing.assert_close(penalty(), expected)
    assert penalty() == 0.0


def test_checkpointed_layers_count_once():
    layers = torch.nn.Sequential(KANLinear(3, 4), KANLinear(4, 2))
    penalty = Penalty(layers, {"activations_l2": 1.0})
    x = torch.randn(7, 3, requires_grad=True)
    found = []
    for _ in range(3):
        y = checkpoint(layers, x, use_reentrant=False)
        found.append(penalty())
        (y.sum() + found[-1]).backward()
    assert found[0] > 0
    assert found[0] == found[1] == found[2]


def test_activation_penalties_act_through_the_gradient():
    layer = KANLinear(3, 4)
    penalty = Penalty(layer, {"activations_l2": 2.0})
    x = torch.randn(7, 3)
    y = layer(x)
    (expected,) = torch.autograd.grad(
        2 * y.square().mean(), layer.basis_linear.weight, retain_graph=True
    )
    (found,) = torch.autograd.grad(penalty(), layer.basis_linear.weight)
    torch.testing.assert_close(found, expected)


def test_nothing_is_collected_in_evaluation_or_after_removal():
    layer = KANLinear(3, 4)
    penalty = Penalty(layer, {"activations_l1": 1.0})
    layer.eval()(torch.randn(2, 3))
    assert penalty() == 0.0
    penalty.remove()
    layer.train()(torch.randn(2, 3))
    assert penalty() == 0.0


def test_unknown_penalties_and_plain_models_are_told():
    with pytest.raises(ValueError, match="weights_l1"):
        Penalty(KANLinear(2, 2), {"weight_l1": 1.0})
    with pytest.raises(ValueError, match="KAN layers"):
        Penalty(torch.nn.Linear(2, 2), {"weights_l1": 1.0})


def test_layers_with_a_wrapped_part_count_or_are_told():
    net = torch.nn.Sequential(KANLinear(2, 2), KANLinear(2, 2))
    net[1].basis_linear = torch.nn.Sequential(net[1].basis_linear)
    activations = Penalty(net, {"activations_l1": 1.0})
    y = net(torch.randn(3, 2))
    assert activations() > y.abs().mean()
    Penalty(net, {"weights_l1": 1.0})
    with pytest.raises(ValueError, match="weights_l1 .* KANLinear"):
        net(torch.randn(3, 2))
