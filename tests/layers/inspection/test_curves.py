"""`layer.curves()`: what a layer computes for a single input."""

import math

import pytest
import torch

import kanseg
from kanseg.layers import (
    KANActivation,
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANLinear,
)
from kanseg.layers.finetune import finetune

BASES = [name for name in kanseg.list_bases() if name != "none"]
CONVS = [KANConv1d, KANConv2d, KANConv3d]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def drawn(layer):
    """The layer in evaluation mode, with parameters away from their initial values."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer.eval()


def convolution(conv, basis, **options):
    return drawn(conv(4, 6, 2, groups=2, basis=basis, norm=None, activation=None, **options))


@torch.no_grad()
def response(layer, channel, position, value):
    """The output (O,) for an image of the size of the kernel that is 0 but for one value."""
    image = torch.zeros(1, 4, *layer.functions_weight.shape[2:])
    image[(0, channel, *position)] = value
    return layer(image).flatten()


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("conv", CONVS, ids=lambda conv: conv.__name__)
def test_edges_of_convolutions_are_the_responses_to_one_hot_images(conv, basis):
    layer = convolution(conv, basis, domain="tanh" if basis == "gram" else "identity")
    x, total, base, functions = layer.curves(torch.tensor([0.0, -1.3, 0.4, 2.5]))
    assert total.shape == (6, 2, *layer.functions_weight.shape[2:], 4)
    torch.testing.assert_close(base + functions, total)
    at_zero = total[..., 0].flatten(1).sum(1)
    torch.testing.assert_close(at_zero, response(layer, 0, (0,) * layer.ndim, 0.0), **TOLERANCE)
    for channel, position in ((0, (0,) * layer.ndim), (3, (1,) * layer.ndim)):
        edges = total[(slice(None), channel % 2, *position)]
        outputs = slice(0, 3) if channel < 2 else slice(3, 6)  # of the channel's group
        expected = torch.zeros(6, 4)
        expected[outputs] = (edges - edges[:, :1])[outputs]
        responses = [response(layer, channel, position, value) for value in x]
        changes = torch.stack(responses, dim=1) - at_zero.unsqueeze(1)
        torch.testing.assert_close(changes, expected, **TOLERANCE)


@pytest.mark.parametrize("basis", BASES)
def test_edges_of_a_linear_layer_are_the_responses_to_one_hot_vectors(basis):
    layer = drawn(KANLinear(3, 5, basis=basis))
    x, total, base, functions = layer.curves()
    torch.testing.assert_close(base + functions, total)
    vectors = torch.zeros(len(x), 3)
    vectors[:, 1] = x
    others = layer.curves(torch.zeros(1)).total[:, [0, 2], 0].sum(1)
    with torch.no_grad():
        expected = layer(vectors).T
    torch.testing.assert_close(total[:, 1] + others.unsqueeze(1), expected, **TOLERANCE)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("share", ["channel", "layer", 2])
@pytest.mark.parametrize("base", ["silu", None])
def test_shared_functions_are_the_responses_of_their_channels(basis, share, base):
    layer = drawn(KANActivation(5, basis=basis, share=share, base=base))
    x, total, base_part, functions = layer.curves()
    of_channel = layer.function_of_channel()
    with torch.no_grad():
        expected = layer(x.expand(1, 5, -1))[0]
    torch.testing.assert_close(total[of_channel], expected, **TOLERANCE)
    if base is None:
        assert base_part is None
        assert torch.equal(functions, total)
    else:
        torch.testing.assert_close(base_part + functions, total)
        torch.testing.assert_close(base_part, torch.nn.functional.silu(x).expand_as(base_part))


def test_curves_of_wavelets_are_the_evaluation_without_gradients():
    layer = KANActivation(5, basis="wavelet", domain="identity")
    torch.nn.init.normal_(layer.weight)
    x, total, _, _ = layer.curves(torch.linspace(-3, 3, 50))
    image = x.expand(1, 5, -1)
    with torch.no_grad():
        torch.testing.assert_close(total, layer(image)[0], **TOLERANCE)
    difference = (total - layer(image)[0]).abs().max()
    assert 1e-6 < difference / total.abs().max() < 5e-5


def test_channels_with_their_own_locations_have_their_own_functions():
    shared = KANActivation(4, basis="wavelet", share="layer")
    assert len(shared.curves().total) == 1
    assert len(drawn(shared).curves().total) == 4
    assert len(drawn(KANActivation(4, basis="gram", share="layer")).curves().total) == 1


@pytest.mark.parametrize("domain", ["instance_norm", "layer_norm"])
@pytest.mark.parametrize("basis", ["rbf", "gram"])
def test_behind_a_normalization_x_is_the_normalized_input(basis, domain):
    layer = drawn(KANActivation(2, basis=basis, domain=domain))
    x = torch.randn(2, 1000)
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    x = x * math.sqrt(1 - 1e-5)  # the normalization divides by sqrt(variance + 1e-5)
    with torch.no_grad():
        expected = layer(x.unsqueeze(0))[0]
    for channel in range(2):
        total = layer.curves(x[channel]).total[channel]
        torch.testing.assert_close(total, expected[channel], **TOLERANCE)


@pytest.mark.parametrize("position", ["before_conv", "after_norm"])
def test_a_convolution_with_shared_functions_returns_those_of_its_activation(position):
    layer = drawn(KANConv2d(3, 4, 3, basis="rbf", share="channel", position=position))
    activation = layer.activation if position == "after_norm" else layer.base_activation
    for ours, theirs in zip(layer.curves(), activation.curves(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_bottleneck_has_its_functions_between_the_inner_channels():
    layer = drawn(KANConv2d(4, 6, 1, inner_channels=3, norm=None, activation=None))
    x, total, base, _ = layer.curves()
    assert base is None
    assert total.shape == (3, 3, 1, 1, len(x))
    image = torch.randn(1, 4, 1, 1)
    with torch.no_grad():
        inner = layer.squeeze(image).flatten()
        sums = layer.curves(inner).total[:, :, 0, 0]
        sums = sums.diagonal(dim1=1, dim2=2).sum(1)
        plain = layer.base_conv(layer.base_activation(image))
        expected = layer.expand(sums[None, :, None, None]) + plain
        torch.testing.assert_close(layer(image), expected, **TOLERANCE)


def test_rows_select_functions_of_a_large_layer():
    layer = convolution(KANConv2d, "hermite")
    rows = torch.tensor([47, 0, 13])
    selected, whole = layer.curves(rows=rows), layer.curves()
    for part, parts in zip(selected[1:], whole[1:], strict=True):
        torch.testing.assert_close(part, parts.flatten(0, -2)[rows])


def test_dropout_and_noise_are_left_out():
    layer = KANConv2d(2, 2, 3, dropout=0.5, noise=0.5, dropout_at="branch").train()
    assert torch.equal(layer.curves().total, layer.eval().curves().total)


def test_low_rank_updates_are_part_of_the_curves():
    layer = drawn(KANLinear(3, 4))
    before = layer.curves().total
    network = torch.nn.Sequential(layer)
    finetune(network, rank=1)
    assert torch.equal(layer.curves().total, before)
    drawn(network)
    x = torch.tensor([0.3])
    with torch.no_grad():
        expected = layer(x.expand(1, 3))[0]
    torch.testing.assert_close(layer.curves(x).total.sum((1, 2)), expected, **TOLERANCE)


def test_by_default_curves_cover_the_grid_or_the_part_of_the_domain_that_is_not_flat():
    x = KANActivation(2, basis="bspline").curves().x
    assert (x[0], x[-1]) == (-3, 3)
    layer = KANLinear(2, 2, basis="rbf")
    layer.update_grid(torch.linspace(4, 9, 500).unsqueeze(1).expand(-1, 2))
    assert layer.curves().x[[0, -1]].tolist() == pytest.approx([4.05, 8.95], abs=0.02)
    for domain in ("tanh", "half_tanh"):
        basis = KANActivation(2, basis="gram", domain=domain).basis
        ends = basis.mapped(KANActivation(2, basis="gram", domain=domain).curves().x[[0, -1]])
        torch.testing.assert_close(ends.abs(), torch.ones(2), atol=6e-3, rtol=0)


def test_half_precision_and_double_precision_layers_have_curves():
    layer = drawn(KANLinear(2, 3))
    total = layer.curves().total
    torch.testing.assert_close(layer.double().curves().total.float(), total, **TOLERANCE)
    torch.testing.assert_close(layer.bfloat16().curves().total, total, atol=0.05, rtol=0.05)


def test_layers_without_functions_and_wrapped_weights_are_refused():
    with pytest.raises(ValueError, match="no functions"):
        KANConv2d(2, 2, 3, basis="none").curves()
    layer = KANLinear(2, 2)
    layer.basis_linear = torch.nn.Sequential(layer.basis_linear)
    with pytest.raises(ValueError, match="Sequential"):
        layer.curves()
