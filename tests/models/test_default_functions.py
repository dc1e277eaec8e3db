"""Whose functions a network has: shared by channel unless it is made of functions of each edge, or
those are asked for.
"""

from importlib import import_module

import pytest
import torch
from torch import nn

import kanseg
from kanseg.layers import KANConv2d, KANLinear
from kanseg.layers.activation import KANActivation
from kanseg.layers.regularization import kan_layers
from kanseg.models.classification import CLASSIFIERS

OF_EACH_EDGE = ["ukan", *CLASSIFIERS]
SHARED = [name for name in kanseg.list_models() if name not in OF_EACH_EDGE]
LARGE = ("densekanet_1", "densekanet_2", "reskanet_1", "ukanet_34", "vggkan16", "vggkan19")
CONV_NETWORKS = [name for name in SHARED if not name.startswith(LARGE)]


def kinds(net):
    """The options share of all layers with functions."""
    return {layer.share for layer in kan_layers(net)}


def is_shared(net):
    """Each convolution with functions is an ordinary one, its norm, and a learned activation; a
    transition of DenseKANet has none.
    """
    for layer in (m for m in net.modules() if isinstance(m, KANConv2d)):
        assert type(layer.base_conv) is nn.Conv2d
        assert layer.basis is None
        assert layer.basis_conv is None
        if layer.base_conv.kernel_size != (1, 1):
            assert isinstance(layer.activation, KANActivation)
    return kinds(net) == {"channel"}


def options(name):
    return {"image_size": (8, 8)} if name in CLASSIFIERS else {"width": 4}


@pytest.mark.parametrize("name", CONV_NETWORKS)
def test_convolutional_networks_share_functions_by_channel(name):
    with torch.device("meta"):
        net = kanseg.create_model(name, width=4)
    assert is_shared(net)
    kind = next(key for key in net.description if key != "kanseg")
    assert net.description[kind]["share"] == "channel"


@pytest.mark.parametrize("name", [*OF_EACH_EDGE, "unet", "simple_kan_4"])
def test_functions_of_each_edge_where_a_network_is_made_of_them_or_they_are_asked_for(name):
    asked = {} if name in OF_EACH_EDGE else {"share": "edge"}
    net = kanseg.create_model(name, **options(name), **asked)
    assert kinds(net) == {"edge"}
    assert not any(isinstance(module, KANActivation) for module in net.modules())
    kind = next(key for key in net.description if key != "kanseg")
    assert net.description[kind]["share"] == "edge"


@pytest.mark.parametrize("option", [{"inner_channels": 0.5}, {"function_init": "zero"}])
def test_options_of_functions_of_each_edge_ask_for_them(option):
    net = kanseg.create_model("unet", width=4, depth=1, **option)
    assert kinds(net) == {"edge"}
    assert net.description["model"]["share"] == "edge"


@pytest.mark.parametrize("share", ["channel", "layer", 3, "edge"])
def test_what_is_asked_for_is_described(share):
    net = kanseg.create_model("unet", width=4, depth=1, share=share)
    assert kinds(net) == {share}
    assert net.description["model"]["share"] == share


def test_without_functions_nothing_is_shared():
    net = kanseg.create_model("unet", basis="none", width=4, depth=1)
    assert not list(kan_layers(net))
    assert "share" not in net.description["model"]


def test_encoders_and_classifiers_have_the_default_of_networks():
    encoder = kanseg.create_encoder("ukanet_18", width=4, depth=2)
    assert is_shared(encoder)
    assert encoder.description["encoder"]["share"] == "channel"
    classifier = kanseg.create_classifier("unet", classes=3, width=4, depth=1, head="kan")
    assert is_shared(classifier)
    (head,) = (m for m in classifier.modules() if isinstance(m, KANLinear))
    assert isinstance(head.base_activation, KANActivation)
    assert classifier.description["classifier"]["share"] == "channel"


def test_encoders_in_other_libraries_have_it_too():
    smp = pytest.importorskip("segmentation_models_pytorch")
    timm = pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    for library in ("smp", "timm"):
        import_module(f"kanseg.integrations.{library}")  # it registers the models
    detection_backbone = import_module("kanseg.integrations.torchvision").detection_backbone
    with torch.device("meta"):
        assert is_shared(smp.Unet("kanseg-ukanet_18", encoder_weights=None))
        assert is_shared(timm.create_model("kanseg_simple_kan_4_gram", width=4))
        assert is_shared(detection_backbone("ukanet_18", width=4))


def test_a_plain_network_gives_its_weights_to_one_of_shared_functions_which_computes_the_same():
    plain = kanseg.create_model("unet", basis="none", width=4, depth=2).eval()
    for norm in (m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.weight, 0.5, 2)
    x = torch.randn(2, 3, 21, 24)
    for basis in ("gram", "bspline", "rbf"):
        net = kanseg.create_model("unet", basis=basis, width=4, depth=2).eval()
        missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
        own = {
            f"{name}.{key}"
            for name, module in net.named_modules()
            if isinstance(module, KANActivation)
            for key in module.state_dict()
        }
        assert set(missing) == own
        assert not unexpected
        torch.testing.assert_close(net(x), plain(x))


def test_grids_of_a_flat_network_with_shared_functions():
    net = kanseg.kan([6, 5, 3], basis="bspline", share="channel")
    for module in net.modules():
        if isinstance(module, KANActivation):
            torch.nn.init.normal_(module.weight)
    x = torch.randn(50, 6)
    before = net(x)
    net.refine(12)
    torch.testing.assert_close(net(x), before, rtol=1e-3, atol=1e-3)
    net.update_grid(x)
    with pytest.raises(ValueError, match="no functions"):
        kanseg.kan([6, 3], basis="none").update_grid(x)
