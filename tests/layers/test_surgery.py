import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune, spectral_norm, weight_norm

import kanseg
from kanseg.bases import BASES
from kanseg.layers import KANConv2d
from kanseg.layers.activation import KANActivation
from kanseg.layers.surgery import dilate

FORMS = {
    "full": {},
    "bottleneck": {"inner_channels": 0.5},
    "shared": {"share": "layer"},
    "shared before": {"share": "layer", "position": "before_conv"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("basis", list(BASES))
def test_one_channel_gives_for_gray_what_three_gave(basis, form):
    layer = KANConv2d(3, 8, 3, padding=1, basis=basis, dtype=torch.float64, **form).eval()
    for part in layer.modules():
        if isinstance(part, KANActivation):
            nn.init.normal_(part.weight)
    gray = torch.randn(2, 1, 9, 8, dtype=torch.float64)
    expected = layer(gray.expand(-1, 3, -1, -1))
    layer.set_in_channels(1)
    torch.testing.assert_close(layer(gray), expected)


@pytest.mark.parametrize("basis", kanseg.list_bases())
def test_more_channels_read_the_old_ones_in_turn_at_the_same_size(basis):
    """Six channels are the three twice at half the weight: an image twice over gives what it
    gave.
    """
    layer = KANConv2d(3, 4, 3, padding=1, basis=basis, dtype=torch.float64).eval()
    for parameter in () if layer.basis is None else layer.basis.parameters():
        nn.init.uniform_(
            parameter, 0.5, 1.5
        )  # so that channels differ where they have something of their own
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    expected = layer(x)
    layer.set_in_channels(6)
    torch.testing.assert_close(layer(torch.cat([x, x], 1)), expected)
    layer(torch.cat([x, x], 1)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_a_grid_that_followed_the_data_goes_along():
    layer = KANConv2d(3, 4, 3, basis="bspline", dtype=torch.float64).eval()
    layer.update_grid(
        torch.randn(4, 3, 9, 9, dtype=torch.float64)
        * torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    )
    knots = layer.basis.knots.clone()
    layer.set_in_channels(5)
    torch.testing.assert_close(layer.basis.knots, knots[[0, 1, 2, 0, 1]])
    assert not layer.basis.uniform
    assert layer(torch.randn(1, 5, 9, 9, dtype=torch.float64)).shape == (1, 4, 7, 7)


def test_a_function_a_channel_goes_along():
    layer = KANConv2d(3, 4, 3, basis="gram", share="channel", position="before_conv").eval()
    functions = layer.base_activation
    before = nn.init.normal_(functions.weight).detach().clone()
    layer.set_in_channels(4)
    torch.testing.assert_close(functions.weight, before[[0, 1, 2, 0]])
    assert isinstance(functions.weight, nn.Parameter)
    assert functions.channels == 4


def test_functions_after_the_norm_do_not_see_the_channels_of_the_input():
    layer = KANConv2d(3, 4, 3, basis="gram", share="channel").eval()
    before = nn.init.normal_(layer.activation.weight).detach().clone()
    layer.set_in_channels(5)
    assert torch.equal(layer.activation.weight, before)


@pytest.mark.parametrize("basis", kanseg.list_bases())
def test_a_layer_of_other_channels_is_one_that_was_built_for_them(basis):
    """With as many denominators, up to the eight that rational functions share by default."""
    layer, built = KANConv2d(3, 4, 3, basis=basis), KANConv2d(7, 4, 3, basis=basis)
    layer.set_in_channels(7)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        k: v.shape for k, v in built.state_dict().items()
    }
    built.load_state_dict(layer.state_dict())
    x = torch.randn(1, 7, 5, 5)
    torch.testing.assert_close(built.eval()(x), layer.eval()(x))


def test_what_cannot_be_changed_is_refused():
    with pytest.raises(ValueError, match="groups=2"):
        KANConv2d(4, 4, 3, groups=2).set_in_channels(2)
    with pytest.raises(ValueError, match="in_channels=0"):
        KANConv2d(4, 4, 3).set_in_channels(0)
    layer = KANConv2d(4, 4, 3)
    nn.utils.parametrizations.weight_norm(layer.basis_conv)
    with pytest.raises(ValueError, match="parametrized"):
        layer.set_in_channels(2)


@pytest.mark.parametrize("padding", [1, "same"])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate"])
def test_a_dilated_convolution_is_one_built_so(padding, padding_mode):
    conv = nn.Conv2d(2, 3, 3, padding=padding, padding_mode=padding_mode)
    built = nn.Conv2d(
        2, 3, 3, padding=2 if padding == 1 else padding, dilation=2, padding_mode=padding_mode
    )
    built.load_state_dict(conv.state_dict())
    dilate(conv, 2)
    x = torch.randn(1, 2, 7, 9)
    torch.testing.assert_close(conv(x), built(x))


def test_a_kernel_that_cannot_keep_the_size_is_refused():
    with pytest.raises(ValueError, match="kernel_size="):
        dilate(nn.Conv2d(2, 2, 2, stride=2), 2)


class Twice(nn.Module):
    def forward(self, weight):
        return weight * 2


CHANGES = {
    "refine": lambda layer, functions: functions.refine(60),
    "update_grid": lambda layer, functions: functions.update_grid(torch.randn(2, 2, 9, 9)),
    "set_in_channels": lambda layer, functions: layer.set_in_channels(4),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("share", ["channel", "layer"])
@pytest.mark.parametrize("made", ["pruned", "parametrized"])
def test_shared_functions_made_from_another_tensor_are_not_changed(change, share, made):
    layer = KANConv2d(2, 3, 3, share=share, position="before_conv")
    functions = layer.base_activation
    nn.init.normal_(functions.weight)
    if made == "pruned":
        prune.l1_unstructured(functions, "weight", 0.5)
    else:
        parametrize.register_parametrization(functions, "weight", Twice())
    x = torch.randn(2, 2, 6, 6)
    before = layer.eval()(x)
    with pytest.raises(ValueError, match="parametrized or pruned"):
        change(layer, functions)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize(
    "make", [weight_norm, spectral_norm, lambda m: prune.identity(m, "weight")]
)
@pytest.mark.filterwarnings("ignore")
def test_a_convolution_made_from_another_tensor_is_not_changed(change, make):
    layer = KANConv2d(2, 3, 3)
    make(layer.basis_conv)
    with pytest.raises(ValueError, match="parametrized or pruned"):
        change(layer, layer)


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_replaced_convolution_is_not_changed(change):
    layer = KANConv2d(2, 3, 3)
    layer.basis_conv = nn.Sequential(layer.basis_conv)
    with pytest.raises(ValueError, match="basis_conv .* Sequential"):
        change(layer, layer)
