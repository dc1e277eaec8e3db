import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import kanseg
from kanseg.bases import BASES
from kanseg.compat.torch_conv_kan import KAGNConv2DLayer, ReLUKANConv2DLayer, WavKANConv2DLayer
from kanseg.layers import (
    ConvAttention,
    ConvExperts,
    FocalModulation,
    KANConv2d,
    KANLinear,
    KANLocal2d,
    finetune,
    kan_conv,
)
from kanseg.layers.parts import (
    NORMS,
    activation_module,
    activation_second_moment,
    init_to_variance,
    norm_module,
)


@pytest.mark.parametrize("norm", list(NORMS))
def test_norms_leave_zero_mean_and_unit_variance(norm):
    y = norm_module(norm, 6, 2).train()(torch.randn(8, 6, 16, 16) * 5 + 3)
    assert abs(y.mean()) < 1e-3
    assert abs(y.std() - 1) < 1e-2


def test_norm_and_activation_take_callables_and_none():
    assert isinstance(norm_module(nn.BatchNorm2d, 3, 2), nn.BatchNorm2d)
    assert isinstance(norm_module(None, 3, 2), nn.Identity)
    assert isinstance(activation_module(nn.ELU), nn.ELU)


def test_relu_keeps_half_of_the_second_moment():
    assert abs(activation_second_moment(nn.ReLU()) - 0.5) < 1e-2


def test_weights_give_the_asked_variance():
    weight = torch.empty(512, 30 * 2)
    init_to_variance(weight, 0.5, torch.tensor([4.0, 0.25]))
    x = torch.randn(2000, 30, 2) * torch.tensor([2.0, 0.5])
    assert abs((x.flatten(1) @ weight.T).square().mean() - 0.5) < 0.05


def test_a_dead_function_gets_no_weight_and_no_nan():
    weight = torch.empty(8, 4)
    init_to_variance(weight, 1.0, torch.tensor([0.0, 1.0]))
    assert (weight[:, 0::2] == 0).all()
    assert torch.isfinite(weight).all()


def reset_all(model):
    """As torch's `apply` does it: from the inside out."""
    return model.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)


def spoiled(model):
    """All that it holds is NaN, or 77 where that is no number."""
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.fill_(torch.nan if value.is_floating_point() else 77)
    return model


LAYERS = {
    **{
        f"conv {basis}": lambda basis=basis: KANConv2d(4, 4, 3, basis=basis, groups=2)
        for basis in BASES
    },
    "prelu": lambda: KANConv2d(4, 4, 3, base_activation="prelu", activation="prelu"),
    "bottleneck": lambda: KANConv2d(4, 4, 3, inner_channels=2, norm="instance"),
    "shared": lambda: KANConv2d(4, 4, 3, share="channel", norm="group"),
    "two functions": lambda: KANConv2d(4, 4, 3, share=2, position="before_conv"),
    "one function": lambda: KANLinear(4, 4, share="layer", bias=True),
    "without a base": lambda: KANLinear(4, 4, share="channel", base_activation=None),
    "plain": lambda: KANConv2d(4, 4, 3, basis="none", norm="layer"),
    "linear": lambda: KANLinear(4, 3, basis="wavelet", bias=True),
    "learned": lambda: KANLinear(4, 3, basis="gram", learnable=True, degree=4),
    "local": lambda: KANLocal2d(4, 3, 2, image_size=(8, 8), bias=True),
    "attention": lambda: ConvAttention(4, conv=kan_conv(basis="rbf"), inner_channels=2),
    "focal": lambda: FocalModulation(4, conv=kan_conv(basis="bspline")),
    "experts": lambda: ConvExperts(4, 4, 3, conv=kan_conv(basis="bspline")),
    "legacy kagn": lambda: KAGNConv2DLayer(4, 4, 3),
    "legacy wavkan": lambda: WavKANConv2DLayer(4, 4, 3),
    "legacy relukan": lambda: ReLUKANConv2DLayer(4, 4, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_reset_layer_is_a_new_one(name):
    """With the same seed it holds the same values, whatever happened to it."""
    torch.manual_seed(3)
    fresh = LAYERS[name]()
    used = spoiled(LAYERS[name]())
    torch.manual_seed(3)
    used.reset_parameters()
    for key, value in fresh.state_dict().items():
        assert torch.equal(used.state_dict()[key], value), key


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_built_on_meta_is_a_new_one_after_to_empty_and_reset(name):
    torch.manual_seed(3)
    fresh = LAYERS[name]()
    with torch.device("meta"):
        layer = LAYERS[name]()
    spoiled(layer.to_empty(device="cpu"))
    torch.manual_seed(3)
    layer.reset_parameters()
    for key, value in fresh.state_dict().items():
        assert torch.equal(layer.state_dict()[key], value), key
    x = torch.randn(2, 4) if isinstance(layer, KANLinear) else torch.randn(2, 4, 8, 8)
    assert torch.equal(layer(x), fresh(x)) or isinstance(layer, ConvExperts)


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("ukan", "u2kanet_small")]


@pytest.mark.parametrize("name", ["unet", "reskanet_18", "simple_kan_4", *LARGE])
def test_a_whole_network_is_reset_module_by_module(name):
    fresh = kanseg.create_model(name, classes=2)
    with torch.device("meta"):
        network = kanseg.create_model(name, classes=2)
    reset_all(spoiled(network.to_empty(device="cpu")))
    for key, value in network.state_dict().items():
        start = fresh.state_dict()[key]
        assert torch.isfinite(value).all(), key
        if (start == start.flatten()[0]).all():
            assert torch.equal(value, start), key
        elif start.is_floating_point() and start.numel() > 400:
            assert value.std().item() == pytest.approx(start.std().item(), rel=0.4), key


@pytest.mark.parametrize("basis", [*BASES, "none"])
def test_a_layer_built_in_inference_mode_computes_there(basis):
    torch.manual_seed(0)
    expected = KANConv2d(3, 4, 3, basis=basis).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.manual_seed(0)
        layer = KANConv2d(3, 4, 3, basis=basis).eval()
        assert torch.equal(layer(x), expected(x))
        layer.load_state_dict(KANConv2d(3, 4, 3, basis=basis).state_dict())
    with torch.no_grad():
        layer(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_built_under_half_precision_has_weights_of_it_and_exact_grids(dtype):
    torch.set_default_dtype(dtype)
    try:
        layer = KANLinear(5, 400)
    finally:
        torch.set_default_dtype(torch.float32)
    assert layer.basis_linear.weight.dtype == dtype
    assert torch.equal(layer.basis.knots, KANLinear(5, 4).basis.knots)
    y = layer(torch.randn(500, 5).to(dtype)).float()
    assert 0.7 < y.std() < 1.3


@pytest.mark.parametrize("kind", ["finetune", "pruned", "shared", "wrapped"])
def test_a_layer_whose_weights_are_made_of_others_is_not_half_reset(kind):
    layer = KANConv2d(2, 3, 1, share="channel" if kind == "shared" else "edge")
    if kind == "finetune":
        finetune(layer, rank=1)
    elif kind == "wrapped":
        layer.basis_conv = torch.nn.Sequential(layer.basis_conv)
    else:
        prune.identity(layer.activation if kind == "shared" else layer.basis_conv, "weight")
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(ValueError, match="parametrized|Sequential"):
        layer.reset_parameters()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
