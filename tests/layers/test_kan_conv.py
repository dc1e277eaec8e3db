import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kanseg.layers import KANConv1d, KANConv2d, KANConv3d
from kanseg.layers.parts import inner_width


def test_output_is_the_sum_of_univariate_functions_written_out():
    layer = KANConv1d(
        2, 3, 3, stride=2, padding=1, basis="chebyshev", degree=2, norm=None, activation=None
    )
    x = torch.randn(1, 2, 7)
    u, silu = torch.tanh(x)[0].numpy(), F.silu(x)[0].numpy()
    values = np.stack([np.ones_like(u), u, 2 * u**2 - 1], axis=1)  # (C, K, W)
    weight = layer.basis_conv.weight.detach().numpy().reshape(3, 2, 3, 3)  # (O, C, K, tap)
    base = layer.base_conv.weight.detach().numpy()
    expected = np.zeros((3, 4))
    for out in range(3):
        for position in range(4):
            for tap in range(3):
                at = 2 * position + tap - 1
                if 0 <= at < 7:
                    expected[out, position] += (weight[out, :, :, tap] * values[:, :, at]).sum() + (
                        base[out, :, tap] * silu[:, at]
                    ).sum()
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("conv", "plain", "ndim"),
    [(KANConv1d, nn.Conv1d, 1), (KANConv2d, nn.Conv2d, 2), (KANConv3d, nn.Conv3d, 3)],
)
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_sizes_are_those_of_a_plain_convolution(conv, plain, ndim, geometry):
    x = torch.randn(1, 2, *[7] * ndim)
    assert conv(2, 4, 3, **geometry)(x).shape == plain(2, 4, 3, **geometry)(x).shape


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_equal_a_padded_image(mode):
    layer = KANConv2d(2, 3, 3, padding=1, padding_mode=mode, basis="bspline").eval()
    bare = KANConv2d(2, 3, 3, basis="bspline").eval()
    bare.load_state_dict(layer.state_dict())
    x = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(layer(x), bare(F.pad(x, (1, 1, 1, 1), mode=mode)))


@pytest.mark.parametrize("inner", [None, 0.5])
def test_groups_equal_separate_layers(inner):
    layer = KANConv2d(6, 4, 3, groups=2, basis="gram", inner_channels=inner, norm=None)
    parts = [KANConv2d(3, 2, 3, basis="gram", inner_channels=inner, norm=None) for _ in range(2)]
    for i, part in enumerate(parts):
        own = {k: v.chunk(2)[i] if "weight" in k else v for k, v in layer.state_dict().items()}
        part.load_state_dict(own)
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(
        layer(x), torch.cat([p(h) for p, h in zip(parts, x.chunk(2, dim=1), strict=True)], dim=1)
    )


def test_none_is_a_plain_convolution():
    layer = KANConv2d(3, 4, 3, padding=1, basis="none", norm=None, activation=None)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.base_conv.weight, padding=1))
    assert layer.basis is None


def test_without_base_activation_there_is_no_base_branch():
    assert KANConv2d(3, 4, 3, base_activation=None).base_conv is None


def test_bottleneck_has_its_parts_and_width():
    layer = KANConv2d(64, 32, 3, basis="relu", inner_channels=0.25)
    assert layer.squeeze.weight.shape == (16, 64, 1, 1)
    assert layer.basis_conv.weight.shape == (16, 16 * 8, 3, 3)
    assert layer.expand.weight.shape == (32, 16, 1, 1)


def test_inner_width_is_a_number_or_a_share_with_a_floor_of_sixteen():
    assert inner_width(7, 64, 64) == 7
    assert inner_width(0.25, 128, 64) == 32
    assert inner_width(0.25, 32, 32) == 16
    assert inner_width(0.25, 3, 32) == 8
    for bad in (0, 1.5, True, -0.1):
        with pytest.raises(ValueError, match="inner_channels"):
            inner_width(bad, 8, 8)


def test_dropout_acts_in_training_only():
    layer = KANConv2d(8, 4, 3, dropout=0.5, norm=None)
    x = torch.randn(1, 8, 6, 6)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 2}, "groups"),
        ({"basis": "splines"}, "'splines'"),
        ({"basis": "none", "degree": 3}, "degree"),
        ({"basis": "gram", "grid_size": 3}, "'grid_size'"),
        ({"norm": "bach"}, "'batch'"),
        ({"activation": "sillu"}, "'silu'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        KANConv2d(3, 4, 3, **arguments)
