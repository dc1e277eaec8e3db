import inspect

import pytest
import torch

import kanseg
from kanseg.bases import BASES
from kanseg.layers import KANConv2d
from kanseg.layers.regularization import kan_layers


def layers(net):
    return [m for m in net.modules() if isinstance(m, KANConv2d)]


def test_the_stem_is_splines_of_the_colors_by_default():
    first, *others = layers(kanseg.create_model("unet", basis="gram", width=4, share="edge"))
    assert type(first.basis).__name__ == "BSpline"
    assert first.in_channels == 3
    assert isinstance(first.squeeze, torch.nn.Identity)
    assert all(type(m.basis).__name__ == "Gram" for m in others)


def test_a_stem_can_differ_or_be_like_all_others():
    net = kanseg.create_model(
        "unet", basis="none", stem={"basis": "rbf", "grid_size": 5}, width=4, norm="instance"
    )
    assert layers(net)[0].basis.num_functions == 5
    assert isinstance(layers(net)[0].norm, torch.nn.InstanceNorm2d)
    assert all(m.basis is None for m in layers(net)[1:])
    alike = kanseg.create_model("unet", stem=None, width=4, share="edge")
    assert type(layers(alike)[0].basis).__name__ == "Gram"


def test_functions_are_shared_by_default_and_each_edges_own_where_that_is_asked_for():
    net = kanseg.create_model("unet", basis="gram", width=4)
    assert all(layer.basis is None for layer in layers(net))
    assert {type(part.basis).__name__ for part in kan_layers(net)} == {"Gram"}
    for options in ({"share": "edge"}, {"inner_channels": None}):
        net = kanseg.create_model("unet", basis="gram", width=4, **options)
        assert all(layer.basis is not None for layer in layers(net))


def test_bottlenecks_can_be_left_out():
    net = kanseg.create_model("unet", width=4, inner_channels=None)
    assert all(isinstance(m.squeeze, torch.nn.Identity) for m in layers(net))


@pytest.mark.parametrize("basis", list(BASES))
@pytest.mark.parametrize("model", ["unet", "ukanet_18"])
def test_every_option_of_every_basis_reaches_the_layers(model, basis):
    defaults = {
        p.name: p.default
        for p in inspect.signature(BASES[basis].__init__).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    assert defaults
    for option, value in defaults.items():
        net = kanseg.create_model(
            model, basis=basis, width=2, depth=1, stem={"basis": "none"}, **{option: value}
        )
        assert len(layers(net)) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "unett"}, "'unett'.* 'unet'"),
        ({"basis": "gramm"}, "'gramm'.* 'gram'"),
        ({"widht": 3}, "'widht'.* 'width'"),
        ({"degre": 3}, "'degre'.* 'degree'"),
        ({"zzz": 3}, r"'zzz'.*\bwidth\b.*\bnorm\b.*\bdegree\b"),
        ({"basis": "none", "degree": 3}, "'degree'.*plain convolution"),
        ({"stem": "spline"}, "stem .*'spline'"),
        ({"stem": {"basis": "rbf", "degree": 2}}, "'degree'.*'rbf'"),
        ({"classes": 0}, "classes"),
        ({"depth": 0}, "depth"),
        ({"downsample": "pol"}, "'pool' or 'stride'"),
        ({"aux_params": {"classes": 2, "pooling": "mean"}}, "'avg' or 'max'"),
        ({"aux_params": {"clases": 2}}, "'clases'.* 'classes'"),
        ({"aux_params": {"pooling": "avg"}}, "`classes`"),
        ({"aux_params": {"classes": 2, "activation": "sofmax"}}, "'sofmax'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        kanseg.create_model(**({"name": "unet"} | arguments))


def test_the_readmes_call_of_the_architecture_runs():
    model = kanseg.create_model("ukanet_18", in_channels=3, classes=2, basis="gram", degree=3)
    assert model.eval()(torch.randn(1, 3, 61, 83)).shape == (1, 2, 61, 83)
