import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kanseg
from kanseg.bases import BASES, create_basis
from kanseg.layers import KANConv2d, KANLinear
from kanseg.layers.activation import KANActivation
from kanseg.models.operations import (
    count_operations,
    multiply_adds,
    num_parameters,
    preserve_state,
    saved_bytes,
)

TANH = 4  # 2x, sigmoid, times 2, minus 1
GRAM3 = TANH + 2 * 2  # u itself, and two steps of the recurrence: a product and a difference each


def work(module, *shape):
    """(linear, functions)"""
    counts = [0], [0]
    adders = [lambda n, c=c: c.append(c.pop() + n) for c in counts]
    with torch.no_grad(), preserve_state(module, training=False), count_operations(module, *adders):
        module(torch.randn(*shape))
    return counts[0][0], counts[1][0]


@pytest.mark.parametrize(
    ("layer", "shape", "wanted"),
    [
        (nn.Conv2d(6, 4, 3, padding=1, groups=2), (2, 6, 8, 10), 2 * 4 * 80 * 3 * 9),
        (nn.Conv2d(3, 4, 5, stride=2, bias=False), (1, 3, 11, 9), 4 * (4 * 3) * 3 * 25),
        (nn.ConvTranspose2d(6, 4, 2, stride=2), (1, 6, 5, 5), 25 * 6 * 4 * 4),
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.Linear(7, 5, bias=False), (2, 3, 7), 6 * 7 * 5),
    ],
    ids=str,
)
def test_plain_layers_by_hand(layer, shape, wanted):
    assert work(layer, *shape) == (wanted, 0)


def test_splines_on_an_uneven_grid_are_counted_alike_however_often_they_ran():
    """They have no table, and a cache of what they need compares their knots."""
    layer = KANActivation(3, basis="bspline")
    layer.update_grid(torch.randn(4, 3, 8, 8) ** 5)
    with torch.no_grad():
        layer(torch.randn(1, 3, 8, 8))
    first = multiply_adds(layer, (1, 3, 8, 8))
    assert first == multiply_adds(layer, (1, 3, 8, 8)) > 3 * 8 * 8


def test_attention_by_hand():
    tokens, width = 5, 8
    layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=16, batch_first=True)
    projections, products, mlp = (
        4 * tokens * width**2,
        2 * tokens**2 * width,
        2 * tokens * width * 16,
    )
    assert work(layer, 1, tokens, width) == (projections + products + mlp, 0)


S = 8 * 10
KAN_LAYERS = {
    "plain": ({"basis": "gram", "degree": 3}, 4 * S * 9 * 6 * (4 + 1), 6 * S * GRAM3),
    "groups": ({"basis": "gram", "degree": 3, "groups": 2}, 4 * S * 9 * 3 * (4 + 1), 6 * S * GRAM3),
    "stride": (
        {"basis": "gram", "degree": 3, "stride": 2},
        4 * S // 4 * 9 * 6 * (4 + 1),
        6 * S * GRAM3,
    ),
    "no base": (
        {"basis": "gram", "degree": 3, "base_activation": None},
        4 * S * 9 * 6 * 4,
        6 * S * GRAM3,
    ),
    "bottleneck": (
        {"basis": "gram", "degree": 3, "inner_channels": 2},
        S * (6 * 2 + 9 * 2 * 4 * 2 + 2 * 4 + 9 * 6 * 4),
        2 * S * GRAM3,
    ),
    "legendre": (
        {"basis": "legendre", "degree": 2, "domain": "identity"},
        4 * S * 9 * 6 * (3 + 1),
        6 * S * 3,
    ),  # 3/2 u, product, difference
    "instance norm": (
        {"basis": "gram", "degree": 2, "domain": "instance_norm"},
        4 * S * 9 * 6 * (3 + 1),
        6 * S * (1 + 2),
    ),
    "none": ({"basis": "none"}, 4 * S * 9 * 6, 0),
}


@pytest.mark.parametrize("case", KAN_LAYERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_kan_convolutions_by_hand(case, batch):
    options, linear, functions = KAN_LAYERS[case]
    assert work(KANConv2d(6, 4, 3, padding=1, **options), batch, 6, 8, 10) == (
        batch * linear,
        batch * functions,
    )


@pytest.mark.parametrize("share", ["channel", "layer", 2])
@pytest.mark.parametrize("position", ["after_norm", "before_conv"])
def test_shared_functions_are_one_convolution_and_a_few_operations_an_entry(share, position):
    """An entry costs its degree, the variable (sigmoid and center) and the base, the first time as
    the second.
    """
    degree = 5
    layer = KANConv2d(
        6, 4, 3, padding=1, basis="gram", degree=degree, share=share, position=position
    )
    entries = S * (4 if position == "after_norm" else 6)
    one, three, again = (work(layer, batch, 6, 8, 10) for batch in (1, 3, 1))
    assert one == again == (S * 9 * 6 * 4, entries * (2 + degree + 1))
    assert three == (3 * one[0], 3 * one[1])


@pytest.mark.parametrize(
    ("options", "operations"),
    [
        ({"basis": "legendre", "degree": 3, "domain": "identity"}, 3 + 1),
        ({"basis": "gram", "degree": 3}, 1 + 3 + 1),  # the sigmoid, of which SiLU is made too
        ({"basis": "gram", "degree": 3, "domain": "tanh", "base": None}, 2 + 3),
        ({"basis": "gram", "degree": 2, "domain": "layer_norm"}, 1 + 2 + 1),
        ({"basis": "bspline"}, 5 + 1),
        ({"basis": "rbf", "base": None}, 5),
        ({"basis": "relu"}, 1 + 5 + 1),
        ({"basis": "rational", "degree": 3, "denominator_degree": 4}, 3 + 4 + 3 + 1),
        ({"basis": "rbf", "grid_size": 30}, 5 + 1),  # a table costs the same with more functions
    ],
)
def test_activations_by_hand(options, operations):
    layer = KANActivation(6, **options)
    assert work(layer, 2, 6, 8, 10) == (0, 2 * 6 * S * operations)
    assert "values_and_derivatives" not in vars(layer.basis)


@pytest.mark.parametrize("basis", list(BASES))
def test_the_functions_of_an_activation_are_counted_at_any_size(basis):
    functions = KANActivation(4, basis=basis)
    small, large = (work(functions, n, 4, 30, 20) for n in (1, 3))
    assert large[1] - small[1] >= 2 * 4 * 30 * 20 * 2


def test_a_large_image_is_spared_the_constant_function():
    layer = KANConv2d(1, 2, 1, basis="gram", degree=3)
    small, large = 200 * 200, 300 * 300
    assert work(layer, 1, 1, 200, 200) == (small * 2 * 5, small * GRAM3)
    assert work(layer, 1, 1, 300, 300) == (
        large * 2 * 4 + 2,
        large * GRAM3,
    )  # and that of one pixel, for the constant


def test_kan_linear_by_hand():
    assert work(KANLinear(6, 4, basis="gram", degree=3), 5, 6) == (5 * 4 * 6 * 5, 5 * 6 * GRAM3)
    assert work(kanseg.kan([6, 4, 3], basis="none"), 5, 6) == (5 * (6 * 4 + 4 * 3), 0)


@pytest.mark.parametrize("name", list(BASES))
def test_the_functions_cost_the_same_fused_and_by_themselves(name):
    """And as many an entry wherever they are evaluated: no number of it is written down for a
    basis.
    """
    basis = create_basis(name, 6)
    layer = KANConv2d(6, 4, 1, basis=name)
    linear, fused = work(layer, 1, 6, 40, 50)
    assert linear == 40 * 50 * 4 * 6 * (basis.num_functions + 1)
    assert fused == work(basis, 1, 6, 40, 50)[1]
    assert fused >= 6 * 40 * 50
    assert "values_and_derivatives" not in vars(layer.basis)


@pytest.mark.parametrize("name", ["unet", "ukanet_18"])
def test_plain_networks_as_the_flop_counter_of_pytorch_has_them(name):
    model = kanseg.create_model(
        name, basis="none", width=4, depth=2, aux_params={"classes": 3}
    ).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 33, 40))
    assert multiply_adds(model, (1, 3, 33, 40)) == counter.get_total_flops() // 2


def test_a_network_is_left_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with preserve_state(model, training=True):
        assert model[1].training
        model(torch.randn(2, 3, 4, 4))
        assert model[0].num_batches_tracked == 1
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in model] == [True, False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 3)
    assert num_parameters(nn.Sequential(layer, layer)) == 12


def kept(module, x):
    return saved_bytes(lambda: module(x), module.parameters())


@pytest.mark.parametrize(
    ("module", "times"),
    [(nn.SiLU(), 1), (nn.Identity(), 0), (nn.ReLU(), 1), (nn.Conv2d(4, 4, 3), 1)],
    ids=str,
)
def test_saved_bytes_of_known_modules(module, times):
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    output = (
        module(x).numel() if isinstance(module, nn.ReLU) else x.numel()
    )  # ReLU keeps its output
    assert kept(module, x) == times * output * 4


def test_a_storage_is_counted_once_and_whole():
    whole = torch.randn(8, 100, requires_grad=True)
    assert (
        saved_bytes(lambda: (torch.sin(whole), torch.exp(whole[:1]).sum(), whole[2:] * whole[2:]))
        == whole.numel() * 4 + 100 * 4
    )  # and the output of exp
    first, second = nn.SiLU(), nn.SiLU()
    assert saved_bytes(lambda: first(whole) + second(whole)) == whole.numel() * 4


def test_parameters_and_views_of_them_are_left_out():
    module = nn.Linear(16, 16)
    x = torch.randn(2, 16)
    assert saved_bytes(lambda: x @ module.weight.t()[:, :4], module.parameters()) == x.numel() * 4
    x.requires_grad_()
    assert saved_bytes(lambda: x @ module.weight.t()[:, :4], module.parameters()) == x.numel() * 4
    assert (
        saved_bytes(lambda: x @ module.weight.t()[:, :4]) == (x.numel() + module.weight.numel()) * 4
    )


def test_nothing_is_kept_without_gradients():
    assert kept(nn.SiLU(), torch.randn(4)) == 0
