import numpy as np
import pytest
import torch
from scipy.signal import correlate
from scipy.special import erf
from torch import nn

from kanseg.layers import FocalModulation, KANConv2d, kan_conv

bases = pytest.mark.parametrize("basis", ["bspline", "gram", "none"])


def plain(in_channels, out_channels, kernel_size, padding=0, groups=1):
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=False
    )


def numbers(layer):
    return layer.weight.detach().double().numpy()


def pointwise(weight, x):
    return np.einsum("oc,chw->ohw", weight[:, :, 0, 0], x)


@pytest.mark.parametrize("normalize", [True, False])
def test_it_is_the_formula_of_the_paper(normalize):
    layer = FocalModulation(
        3, conv=plain, levels=2, window=3, factor=2, normalize=normalize, gamma=0.5
    )
    x = torch.randn(1, 3, 6, 5)
    image = x[0].double().numpy()
    mapped = pointwise(numbers(layer.f), image)
    q, context, gates = mapped[:3], mapped[3:6], mapped[6:]
    total = 0
    for level, gate in zip(layer.levels, gates, strict=False):
        context = np.stack(
            [
                correlate(c, w[0], mode="same", method="direct")
                for c, w in zip(context, numbers(level), strict=True)
            ]
        )
        total = total + context * gate
    mean = context.mean(axis=(1, 2), keepdims=True)
    total = total + gates[2] * mean * (1 + erf(mean / np.sqrt(2))) / 2
    modulator = pointwise(numbers(layer.h), total / (3 if normalize else 1))
    expected = image + 0.5 * pointwise(numbers(layer.proj), q * modulator)
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=1e-5)


def test_levels_are_depthwise_and_grow_by_the_factor():
    layer = FocalModulation(
        6, conv=kan_conv(basis="gram", inner_channels=0.25), levels=3, window=5, factor=4
    )
    assert [level.base_conv.kernel_size[0] for level in layer.levels] == [5, 9, 13]
    assert all(level.groups == level.basis_conv.groups == 6 for level in layer.levels)
    level = layer.levels[0].eval()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: level(x.view(1, 6, 1, 1)).flatten(), torch.randn(6)
    )
    assert torch.equal(jacobian != 0, torch.eye(6, dtype=torch.bool))


def test_the_maps_can_be_linear_as_in_the_paper():
    layer = FocalModulation(4, conv=kan_conv(basis="gram"), full_kan=False)
    assert [type(m) for m in (layer.f, layer.h, layer.proj)] == [nn.Conv2d] * 3
    assert all(isinstance(m, KANConv2d) for m in layer.levels)


def test_the_whole_image_reaches_every_pixel():
    layer = FocalModulation(4, conv=kan_conv(basis="gram"), levels=1).eval()
    x = torch.randn(1, 4, 30, 30, requires_grad=True)
    layer(x)[0, :, 0, 0].sum().backward()
    assert x.grad[0, :, -1, -1].abs().max() > 0


@bases
@pytest.mark.parametrize("size", [(61, 83), (33, 100), (1, 1)])
def test_any_basis_and_size(basis, size):
    layer = FocalModulation(
        6, conv=kan_conv(basis=basis, inner_channels=0.5 if basis != "none" else None)
    ).eval()
    a, b = torch.randn(1, 6, *size), 20 * torch.randn(1, 6, *size)
    y = layer(a)
    assert y.shape == a.shape
    assert torch.isfinite(y).all()
    torch.testing.assert_close(layer(torch.cat([a, b]))[:1], y, rtol=1e-4, atol=1e-4)


@bases
@pytest.mark.parametrize("full_kan", [True, False])
def test_a_step_moves_every_parameter_and_the_state_holds_the_function(basis, full_kan):
    layer = FocalModulation(4, conv=kan_conv(basis=basis), full_kan=full_kan)
    before = {name: value.clone() for name, value in layer.named_parameters()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    (layer(torch.randn(2, 4, 9, 7)) * torch.randn(2, 4, 9, 7)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[name], value) for name, value in layer.named_parameters())
    twin = FocalModulation(4, conv=kan_conv(basis=basis), full_kan=full_kan)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(twin.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("options", [{"levels": 0}, {"window": 2}, {"factor": 1}])
def test_bad_options_are_told(options):
    with pytest.raises(ValueError, match="window"):
        FocalModulation(4, conv=plain, **options)
