import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kanseg.layers import ConvAttention, kan_conv
from kanseg.layers.attention import rotate

bases = pytest.mark.parametrize("basis", ["bspline", "gram", "none"])


def plain(in_channels, out_channels, kernel_size, stride=1, padding=0):
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)


def by_hand(q, k, v, heads):
    """softmax(q k^T / sqrt(d)) v of (C, N), (C, M), (C, M) arrays, head by head."""
    out = []
    for q1, k1, v1 in zip(*(np.split(each, heads) for each in (q, k, v)), strict=True):
        weights = np.exp(q1.T @ k1 / np.sqrt(len(q1)))
        out.append(v1 @ (weights / weights.sum(1, keepdims=True)).T)
    return np.concatenate(out)


@pytest.mark.parametrize("heads", [1, 2])
def test_it_is_the_softmax_of_scaled_products(heads):
    layer = ConvAttention(4, conv=plain, heads=heads, gamma=0.7)
    x = torch.randn(1, 4, 5, 3)
    q, k, v = (
        conv(x)[0].flatten(1).detach().numpy().astype(float)
        for conv in (layer.query, layer.key, layer.value)
    )
    expected = x[0].numpy() + 0.7 * by_hand(q, k, v, heads).reshape(4, 5, 3)
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=1e-5)


def test_inner_channels_are_between_plain_convolutions():
    layer = ConvAttention(6, conv=plain, inner_channels=4, kernel_size=1)
    x = torch.randn(1, 6, 4, 4)
    inner = layer.squeeze(x)
    q, k, v = (
        conv(inner)[0].flatten(1).detach().numpy() for conv in (layer.query, layer.key, layer.value)
    )
    mixed = torch.from_numpy(by_hand(q, k, v, 1)).float().view(1, 4, 4, 4)
    torch.testing.assert_close(
        layer(x), x + layer.gamma * layer.expand(mixed), rtol=1e-4, atol=1e-5
    )


def test_reduced_keys_are_means_over_squares_and_what_there_is_at_the_border():
    layer = ConvAttention(4, conv=plain, reduction=2, kernel_size=1)
    x = torch.randn(1, 4, 5, 3)
    means = np.stack(
        [x[0, :, r : r + 2, c : c + 2].mean(dim=(1, 2)).numpy() for r in (0, 2, 4) for c in (0, 2)],
        axis=1,
    )
    reduced = torch.from_numpy(means).view(1, 4, 3, 2)
    q, k, v = (
        conv(y)[0].flatten(1).detach().numpy()
        for conv, y in ((layer.query, x), (layer.key, reduced), (layer.value, reduced))
    )
    expected = x + layer.gamma * torch.from_numpy(by_hand(q, k, v, 1)).float().view(1, 4, 5, 3)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_rope_rotates_reduced_keys_by_the_mean_coordinates_of_their_squares():
    layer = ConvAttention(8, conv=plain, reduction=2, kernel_size=1, rope=True, gamma=1.0)
    x = torch.randn(1, 8, 5, 3)
    reduced = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    query, key, value = layer.query(x), layer.key(reduced), layer.value(reduced)
    q, k, v = (y.flatten(2).transpose(1, 2).unsqueeze(1) for y in (query, key, value))
    q = rotate(q, torch.arange(5.0), torch.arange(3.0), layer.rope_base)
    k = rotate(k, torch.tensor([0.5, 2.5, 4.0]), torch.tensor([0.5, 2.0]), layer.rope_base)
    attended = (q @ k.mT / 8**0.5).softmax(dim=-1) @ v
    expected = x + attended.squeeze(1).transpose(1, 2).view_as(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_gamma_is_on_the_attention_and_the_image_goes_through():
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(ConvAttention(4, conv=kan_conv(basis="gram"), gamma=0.0)(x), x)


def test_rotation_is_a_complex_factor_for_each_pair_of_channels():
    x = torch.randn(2, 1, 12, 8)
    rows, columns = np.arange(3.0), np.arange(4.0)
    y = rotate(x, torch.from_numpy(rows), torch.from_numpy(columns), base=50.0).numpy()
    numbers = x.numpy()[..., :4] + 1j * x.numpy()[..., 4:]
    for n in range(12):
        angles = np.array(
            [rows[n // 4], rows[n // 4] / 50**0.5, columns[n % 4], columns[n % 4] / 50**0.5]
        )
        turned = numbers[:, :, n] * np.exp(1j * angles)
        np.testing.assert_allclose(
            y[:, :, n], np.concatenate([turned.real, turned.imag], axis=-1), atol=1e-5
        )


def test_rotated_scores_depend_on_how_far_pixels_are_apart_only():
    q, k = torch.randn(2, 1, 1, 1, 8)
    places = torch.arange(6.0)
    turned_q, turned_k = (
        rotate(each.expand(1, 1, 36, 8), places, places, 100.0).view(6, 6, 8) for each in (q, k)
    )
    scores = torch.einsum("hwd,uvd->hwuv", turned_q, turned_k)
    torch.testing.assert_close(
        scores[:-1, :-2, :-1, :-2], scores[1:, 2:, 1:, 2:], rtol=1e-4, atol=1e-4
    )
    assert (scores[0, 0] - scores[0, 0, 0, 0]).abs().max() > 0.1
    assert scores[0, 0, 1, 2] != pytest.approx(
        scores[0, 0, 2, 1].item(), abs=1e-3
    )  # rows are not columns


def test_without_places_pixels_can_be_shuffled_and_with_them_not():
    x = torch.randn(1, 8, 4, 4)
    for rope in (False, True):
        layer = ConvAttention(8, conv=plain, kernel_size=1, rope=rope, gamma=1.0)
        turned = layer(x.flip(3)).flip(3)
        mirrored = layer(x.transpose(2, 3)).transpose(2, 3)
        assert torch.allclose(layer(x), mirrored, atol=1e-5) != rope
        assert torch.allclose(layer(x), turned, atol=1e-5) != rope


@bases
@pytest.mark.parametrize("size", [(61, 83), (33, 100), (1, 1)])
def test_any_basis_and_size(basis, size):
    layer = ConvAttention(
        8,
        conv=kan_conv(basis=basis, inner_channels=0.5 if basis != "none" else None),
        heads=2,
        rope=True,
        reduction=4,
    ).eval()
    a, b = torch.randn(1, 8, *size), 20 * torch.randn(1, 8, *size)
    y = layer(a)
    assert y.shape == a.shape
    assert torch.isfinite(y).all()
    torch.testing.assert_close(layer(torch.cat([a, b]))[:1], y, rtol=1e-4, atol=1e-4)


@bases
def test_a_step_moves_every_parameter_and_the_state_holds_the_function(basis):
    layer = ConvAttention(8, conv=kan_conv(basis=basis), inner_channels=4, rope=True)
    before = {name: value.clone() for name, value in layer.named_parameters()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
    (layer(torch.randn(2, 8, 9, 7)) * torch.randn(2, 8, 9, 7)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[name], value) for name, value in layer.named_parameters())
    twin = ConvAttention(8, conv=kan_conv(basis=basis), inner_channels=4, rope=True)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(1, 8, 5, 5)
    for other in (twin.eval(), copy.deepcopy(layer).eval()):
        assert torch.equal(other(x), layer.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_that_keeps_no_scores_takes_our_layout(dtype):
    layer = ConvAttention(12, conv=kan_conv(basis="gram"), heads=3, rope=True, reduction=2)
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32),
    ):
        y = layer(torch.randn(2, 12, 10, 11))
        y.float().square().sum().backward()
    assert y.dtype == torch.float32  # the residual's


def test_it_can_be_exported():
    layer = ConvAttention(8, conv=kan_conv(basis="gram"), rope=True, reduction=2).eval()
    x = torch.randn(1, 8, 7, 9)
    torch.testing.assert_close(
        torch.export.export(layer, (x,)).module()(x), layer(x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads=3"),
        ({"heads": 4, "rope": True}, "8 / 4"),
        ({"kernel_size": 2}, "got 2"),
        ({"reduction": 0}, "and 0$"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        ConvAttention(8, conv=plain, **options)
