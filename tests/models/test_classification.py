import pytest
import torch
import torchvision
from torch import nn

import kanseg
from kanseg.layers import KANLinear
from kanseg.layers.regularization import kan_layers


def weights_of_convolutions(net):
    return sorted(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        ("vggkan11", "vgg11", {"width": 64, "layout": "v1"}),
        ("vggkan19", "vgg19", {"width": 64, "layout": "v1"}),
        ("reskanet_50", "resnet50", {}),
        ("reskanet_152", "resnet152", {}),
        ("densekanet_121", "densenet121", {}),
        ("densekanet_161", "densenet161", {}),
    ],
)
def test_plain_networks_have_the_convolutions_of_the_literature(ours, theirs, options):
    with torch.device("meta"):
        net = kanseg.create_model(ours, basis="none", **options)
        assert weights_of_convolutions(net) == weights_of_convolutions(
            torchvision.models.get_model(theirs)
        )


@pytest.mark.parametrize("layout", ["v1", "v2", "v3", "v4"])
def test_layouts_of_vggkan_differ_in_the_sixth_level(layout):
    encoder = kanseg.create_encoder("vggkan11", layout=layout)
    assert (
        encoder.out_channels
        == [16, 32, 64, 128, 128] + {"v1": [], "v2": [128], "v3": [256], "v4": [256]}[layout]
    )


def test_small_images_keep_their_size_in_the_stem():
    x = torch.randn(1, 3, 32, 32)
    for name in ("reskanet_18", "densekanet_121"):
        sizes = {
            s: [f.shape[-1] for f in kanseg.create_encoder(name, width=4, stem_stride=s).eval()(x)]
            for s in (1, 2, 4)
        }
        assert sizes == {1: [32, 16, 8, 4], 2: [32, 16, 8, 4, 2], 4: [32, 16, 8, 4, 2, 1]}


@pytest.mark.parametrize("basis", ["gram", "none"])
def test_heads_end_in_logits_and_use_the_basis(basis):
    x = torch.randn(2, 3, 16, 16)
    for head, layers in {"linear": 0, "kan": 1, "hidden_kan": 1, "mlp": 0}.items():
        net = kanseg.create_classifier(
            "simple_kan_4",
            classes=7,
            basis=basis,
            width=4,
            head=head,
            head_dropout=0.5,
            pool_size=2,
        ).eval()
        assert net(x).shape == (2, 7)
        found = [m for m in net.classification_head.modules() if isinstance(m, KANLinear)]
        assert len(found) == layers
        assert all(len(list(kan_layers(m))) == int(basis != "none") for m in found)


def test_head_reads_the_mean_of_the_deepest_feature():
    net = kanseg.create_classifier("simple_kan_4", classes=3, width=4).eval()
    x = torch.randn(2, 3, 17, 20)
    feature = net.encoder(x)[-1]
    torch.testing.assert_close(net(x), net.classification_head[-1](feature.mean(dim=(2, 3))))


@pytest.mark.parametrize("name", ["ukanet_18", "unet", "u2kanet_small", "ukan"])
def test_every_segmentation_encoder_carries_a_classification_head(name):
    net = kanseg.create_classifier(name, in_channels=1, classes=5, width=8).eval()
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 5)


def test_features_only_gives_the_encoder():
    net = kanseg.create_model("vggkan11", classes=7, width=4)
    features = kanseg.create_model("vggkan11", features_only=True, width=4)
    assert features.state_dict().keys() == net.encoder.state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vggkan12"}, "'vggkan12'.* 'vggkan1"),
        ({"name": "vggkan11", "layout": "v5"}, "v1, v2, v3, v4.*'v5'"),
        ({"name": "vggkan11", "layout": "v1", "depth": 5}, "depths 1 to 4"),
        ({"name": "vggkan11", "head": "kann"}, "head .*'kann'"),
        ({"name": "vggkan11", "classes": 0}, "classes"),
        ({"name": "reskanet_18", "stem_stride": 3}, "stem_stride .*3"),
        (
            {"name": "reskanet_18", "aux_params": {"classes": 2}},
            "aux_params",
        ),
        ({"name": "reskanet_18", "heat": "kan"}, "'heat'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        kanseg.create_model(**arguments)
