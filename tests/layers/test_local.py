import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kanseg
from kanseg.bases import BASES
from kanseg.layers import KANLinear, KANLocal2d, off_grid_shares, update_grids


def copy_of_place(layer, place, basis, **options):
    """A KANLinear with the weights of one place, given as its number."""
    inputs, outputs = layer.in_channels * layer.kernel_size**2, layer.out_channels
    alone = KANLinear(inputs, outputs, basis=basis, **options)
    rows = slice(place * outputs, (place + 1) * outputs)
    with torch.no_grad():
        for ours, theirs in (
            (layer.functions.basis_conv, alone.basis_linear),
            (layer.functions.base_conv, alone.base_linear),
        ):
            if ours is not None:
                theirs.weight.copy_(ours.weight[rows, :, 0])
    if alone.basis is not None:  # what a family learns by channels differs from place to place too
        mine = layer.functions.basis.state_dict()
        channels = slice(place * inputs, (place + 1) * inputs)
        alone.basis.load_state_dict(
            {
                k: mine[k][channels] if v.shape != mine[k].shape else mine[k]
                for k, v in alone.basis.state_dict().items()
            }
        )
    return alone


@pytest.mark.parametrize("basis", [name for name in kanseg.list_bases() if name != "rational"])
def test_each_place_is_a_linear_layer_of_its_own(basis):
    layer = KANLocal2d(2, 3, 3, 2, image_size=(7, 5), basis=basis)
    x = torch.randn(4, 2, 7, 5)
    y = layer(x)
    assert y.shape == (4, 3, 3, 2)
    for row in range(3):
        for column in range(2):
            patch = x[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].flatten(1)
            alone = copy_of_place(layer, 2 * row + column, basis)
            torch.testing.assert_close(y[:, :, row, column], alone(patch), atol=1e-5, rtol=1e-4)


def test_patches_are_those_of_unfold():
    layer = KANLocal2d(2, 1, 3, 2, image_size=(8, 9))
    x = torch.randn(2, 2, 8, 9)
    torch.testing.assert_close(
        layer.patches(x), F.unfold(x, 3, stride=2).transpose(1, 2), rtol=0, atol=0
    )


@pytest.mark.parametrize("basis", kanseg.list_bases())
@pytest.mark.slow_except("gram", "bspline", "none")
def test_gradients_are_the_derivatives(float64, basis):
    layer = KANLocal2d(1, 2, 2, image_size=(3, 3), basis=basis, bias=True)
    x = (torch.rand(1, 1, 3, 3) * 1.6 - 0.8137).requires_grad_()
    assert torch.autograd.gradcheck(lambda *_: layer(x), (x, *layer.parameters()))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_a_grouped_convolution_over_one_pixel_is_a_product_for_each_group():
    """The short cut of groups over one pixel, against PyTorch's own convolution: values and
    gradients.
    """
    layer = KANLocal2d(2, 3, 2, image_size=(6, 6), basis="legendre").double()
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    conv, base, basis = layer.functions.basis_conv, layer.functions.base_conv, layer.functions.basis
    vectors = layer.patches(x).flatten(1).unsqueeze(2)
    expected = conv(basis(vectors).flatten(1, 2)) + base(F.silu(vectors))
    expected = expected.view(5, 3, 3, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), expected)
    weights = (x, conv.weight, base.weight)
    for ours, theirs in zip(
        torch.autograd.grad(layer(x).square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("share", ["edge", "channel", "layer"])
@pytest.mark.parametrize("basis", list(BASES))
@pytest.mark.slow_except("gram", "bspline")
def test_fresh_output_has_variance_near_one(basis, share):
    y = KANLocal2d(2, 6, 4, image_size=(16, 16), basis=basis, share=share)(
        torch.randn(300, 2, 16, 16)
    )
    assert 0.5 < y.std() < 2


def test_it_has_the_weights_that_its_description_counts_and_keeps_the_patches():
    layer = KANLocal2d(3, 5, 4, image_size=(16, 12), basis="gram", degree=3)
    places, entries = 4 * 3, 3 * 16
    assert sum(p.numel() for p in layer.parameters()) == places * 5 * entries * (4 + 1)
    kept = []
    x = torch.randn(2, 3, 16, 12)
    own = {p.data_ptr() for p in layer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert (
        sum({t.data_ptr(): t.numel() for t in kept if t.data_ptr() not in own}.values())
        <= 2 * 2 * places * entries
    )


def test_grids_follow_the_patches_of_each_place():
    model = nn.Sequential(KANLocal2d(1, 2, 2, image_size=(4, 4), basis="bspline"))
    x = torch.randn(400, 1, 4, 4) + 7 * torch.arange(4.0)
    before = model(x)
    assert next(iter(off_grid_shares(model, x).values())) > 0.5
    update_grids(model, x)
    assert next(iter(off_grid_shares(model, x).values())) == 0
    assert model(x).shape == before.shape
    low, _ = model[0].functions.basis.grid_limits()
    assert (
        low.view(4, 4)[1].mean() > low.view(4, 4)[0].mean() + 7
    )  # the right patches have larger values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 9}, "kernel_size=9"),
        ({"stride": 0}, "stride=0"),
        ({"domain": "instance_norm"}, "'layer_norm'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        KANLocal2d(
            **(
                {"in_channels": 1, "out_channels": 2, "kernel_size": 2, "image_size": (8, 8)}
                | arguments
            )
        )


def test_a_image_of_another_size_is_named():
    with pytest.raises(ValueError, match=r"images \(B, 1, 8, 8\)"):
        KANLocal2d(1, 2, 2, image_size=(8, 8))(torch.randn(1, 1, 8, 9))
