import numpy as np
import pytest
import torch
from torch import nn

import kanseg
from kanseg.explain.curves import function_curves
from kanseg.layers import KANActivation, KANConv2d, KANLinear


def drawn(layer):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer.eval()


def only(layer, *batches, **options):
    (curves,) = function_curves(nn.Sequential(layer), batches, **options)
    return curves


def test_channels_have_the_histogram_and_the_variance_of_their_own_inputs():
    layer = drawn(KANActivation(3))
    x = torch.rand(2, 3, 20, 20) * torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1)
    found = only(layer, x[:1], x[1:], bins=10)
    for channel in range(3):
        values = x[:, channel].flatten().numpy()
        expected, _ = np.histogram(values, found.edges.numpy())
        assert np.abs(found.counts[channel].numpy() - expected).sum() <= 2  # at rounded edges
        assert found.counts[channel].sum() == 800
        with torch.no_grad():
            variance = layer(x)[:, channel].var(correction=0).double()
        torch.testing.assert_close(found.contribution[channel], variance, rtol=1e-4, atol=1e-8)
    assert found.rows == ["channel 0", "channel 1", "channel 2"]
    assert found.curves.x[[0, -1]].tolist() == pytest.approx([x.min().item(), x.max().item()])
    torch.testing.assert_close(found.curves.total, layer.curves(found.curves.x).total)


def test_a_shared_function_has_the_inputs_of_all_of_its_channels():
    x = torch.randn(1, 5, 6, 6)
    found = only(drawn(KANActivation(5, share=2)), x)
    assert found.rows == ["channels 0-2", "channels 3-4"]
    assert found.counts.sum(1).tolist() == [108, 72]
    assert only(drawn(KANActivation(5, share="layer")), x).rows == ["layer"]


@torch.no_grad()
def test_of_functions_per_edge_the_strongest_are_kept():
    layer = KANConv2d(4, 6, 3, groups=2, basis="rbf")
    layer.basis_conv.weight.zero_()
    layer.base_conv.weight.zero_()
    layer.base_conv.weight[5, 1, 2, 0] = 2.0  # of the second group: input 3
    layer.base_conv.weight[0, 0, 1, 1] = 1.0
    x = torch.randn(1, 4, 9, 9)
    found = only(layer, x, max_edges=3)
    assert found.rows[:2] == ["in 3 -> out 5 [2, 0]", "in 0 -> out 0 [1, 1]"]
    assert found.num_functions == 6 * 2 * 9
    assert found.curves.total.shape == (3, 201)
    base = nn.functional.silu(x)
    expected = torch.stack([(2 * base[:, 3]).var(correction=0), base[:, 0].var(correction=0)])
    torch.testing.assert_close(found.contribution[:2].float(), expected)
    torch.testing.assert_close(
        found.curves.total[0], 2 * nn.functional.silu(found.curves.x), atol=1e-6, rtol=1e-5
    )


def test_edges_of_a_linear_layer_have_no_position():
    names = only(drawn(KANLinear(2, 1)), torch.randn(9, 2)).rows
    assert sorted(names) == ["in 0 -> out 0", "in 1 -> out 0"]


def test_outliers_are_counted_in_the_last_bin():
    x = torch.randn(1, 1, 50, 50)
    x[..., 0, 0] = 1000.0
    found = only(drawn(KANActivation(1)), x)
    assert found.edges[-1] < 200
    assert found.counts[0, -1] == 1
    assert found.counts.sum() == 2500


def test_constant_inputs_have_a_range_around_them():
    found = only(KANActivation(2), torch.full((1, 2, 4, 4), 3.0))
    assert found.edges[[0, -1]].tolist() == [2, 4]
    assert found.contribution.tolist() == pytest.approx([0, 0], abs=1e-9)


def test_behind_a_normalization_the_inputs_are_normalized():
    found = only(KANActivation(2, basis="rbf", domain="instance_norm"), torch.rand(1, 2, 9, 9) + 50)
    assert found.normalized
    assert found.edges.abs().max() < 6
    assert not only(KANActivation(2), torch.rand(1, 2, 4, 4)).normalized


def test_layers_that_no_image_reaches_are_left_out():
    network = nn.Sequential(KANActivation(3))
    network.unused = KANActivation(3)
    network.forward = network[0].forward
    assert function_curves(network, [torch.randn(1, 3, 4, 4)]) == []


def test_all_layers_of_a_network_in_order_and_nothing_changes():
    network = kanseg.create_model("unet", width=4, depth=2, dropout=0.3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = [torch.randn(1, 3, 32, 32)]
    generator = torch.get_rng_state()
    found = function_curves(network, iter(images))
    names = [name for name, _ in network.named_modules()]
    assert [each.layer for each in found] == sorted((e.layer for e in found), key=names.index)
    assert len(found) == 10
    assert network.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(before[name].equal(value) for name, value in network.state_dict().items())
