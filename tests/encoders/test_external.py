"""Encoders of other libraries: nothing is downloaded here."""

import socket
import sys

import pytest
import torch

import kanseg
from kanseg.encoders import external_encoder
from kanseg.layers import KANConv2d
from kanseg.layers.regularization import kan_layers
from kanseg.models.segmentation import decoder_widths

PYRAMIDS = [
    ("smp-resnet18", {}),
    ("smp-mit_b0", {}),
    ("smp-vgg11", {"depth": 2}),
    ("timm-test_resnet", {}),
    ("timm-test_convnext", {}),
    ("timm-test_efficientnet", {"depth": 3}),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*arguments, **named):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(("name", "options"), PYRAMIDS)
def test_features_keep_the_contract_of_ours(name, options):
    encoder = external_encoder(name, 4, **options).eval()
    assert encoder.in_channels == 4
    assert encoder.output_stride == 2**encoder.depth
    assert len(encoder.out_channels) == encoder.depth + 1
    for size in [(1, 1), (61, 83), (64, 32)]:
        x = torch.randn(1, 4, *size)
        with torch.no_grad():
            features = encoder(x)
        assert features[0] is x
        sizes = [tuple(-(-side // 2**i) for side in size) for i in range(encoder.depth + 1)]
        assert [tuple(f.shape) for f in features] == [
            (1, c, *s) for c, s in zip(encoder.out_channels, sizes, strict=True)
        ]


def test_features_are_those_of_the_other_library():
    import segmentation_models_pytorch as smp
    import timm

    x = torch.randn(1, 3, 64, 96)
    theirs = smp.encoders.get_encoder("resnet18", weights=None).eval()
    ours = external_encoder("smp-resnet18").eval()
    ours.body.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    theirs = timm.create_model("test_convnext", features_only=True).eval()
    ours = external_encoder("timm-test_convnext", depth=5).eval()
    ours.body.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x)[2:], theirs(x))
    assert ours(x)[1].shape == (1, 0, 32, 48)


def test_layers_behind_the_last_feature_are_left_out():
    shallow, deep = (
        external_encoder("timm-test_resnet", depth=2),
        external_encoder("timm-test_resnet", depth=5),
    )
    assert sum(p.numel() for p in shallow.parameters()) < sum(p.numel() for p in deep.parameters())


def test_features_with_channels_last_are_turned():
    encoder = external_encoder(
        "timm-swin_tiny_patch4_window7_224",
        depth=3,
        img_size=64,
        strict_img_size=False,
        embed_dim=24,
    ).eval()
    assert [tuple(f.shape) for f in encoder(torch.randn(1, 3, 61, 83))] == [
        (1, 3, 61, 83),
        (1, 0, 31, 42),
        (1, 24, 16, 21),
        (1, 48, 8, 11),
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "smp-NAME or timm-NAME"),
        ("smp-", {}, "smp-NAME or timm-NAME"),
        ("smp-resnet81", {}, "did you mean 'resnet"),
        ("timm-resnet19", {}, "did you mean 'resnet"),
        ("smp-resnet18", {"depth": 6}, "1 to 5, got 6"),
        ("smp-resnet18", {"width": 3}, "options of 'resnet18'.*width"),
        ("timm-test_vit", {"depth": 1}, "none of 2"),
        ("timm-convnext_atto", {"depth": 1}, "none of 2"),
    ],
)
def test_what_cannot_be_built_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        external_encoder(name, **options)


@pytest.mark.parametrize("name", ["smp-resnet18", "timm-resnet18"])
def test_a_missing_library_is_named(name, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "segmentation_models_pytorch" if name.startswith("smp") else "timm", None
    )
    with pytest.raises(ImportError, match="pip install"):
        external_encoder(name)


def test_kan_decoders_stand_on_external_encoders():
    model = kanseg.create_model(
        "unet",
        4,
        3,
        encoder="smp-resnet18",
        encoder_weights=None,
        encoder_depth=5,
        basis="gram",
        degree=2,
    ).eval()
    layers = [m for m in model.decoder.modules() if isinstance(m, KANConv2d)]
    assert len(layers) == 10
    assert [layer.basis.degree for layer in kan_layers(model.decoder)] == [2] * 10
    assert not any(isinstance(m, KANConv2d) for m in model.encoder.modules())
    assert [block[0].out_channels for block in model.decoder.blocks] == [256, 128, 64, 64, 32]
    assert model(torch.randn(1, 4, 61, 83)).shape == (1, 3, 61, 83)


@pytest.mark.parametrize("name", ["unet", "ukanet_18", "ukanet_50"])
def test_decoders_do_without_a_feature(name):
    """timm's ConvNeXt starts at a quarter of the size."""
    model = kanseg.create_model(name, encoder="timm-test_convnext", basis="none").eval()
    assert decoder_widths(model.encoder) == [8, 12, 24, 32, 48, 64]
    assert model(torch.randn(1, 3, 33, 50)).shape == (1, 2, 33, 50)


def test_our_encoders_change_places_by_name():
    options = {"width": 4, "stem": {"basis": "rbf", "grid_size": 5}}
    model = kanseg.create_model(
        "unet",
        encoder="ukanet_18",
        encoder_depth=2,
        encoder_options=options,
        basis="chebyshev",
        degree=5,
    ).eval()
    first, *others = kan_layers(model)
    assert first.basis.num_functions == 5
    assert {layer.basis.degree for layer in others} == {5}
    assert model.encoder.out_channels == [4, 8, 16]
    assert model(torch.randn(1, 3, 31, 20)).shape == (1, 2, 31, 20)
    built = kanseg.create_encoder("ukanet_18", width=4, depth=2)
    assert kanseg.create_model("unet", encoder=built).encoder is built


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "ukanet18"}, "did you mean 'ukanet_18'"),
        (
            {"encoder": "ukanet_18", "width": 4},
            r"'width' is an option of the encoder.*encoder_options: \{width.*model\.options",
        ),
        ({"encoder": "ukanet_18", "depth": 4}, "give encoder_depth"),
        ({"encoder": "ukanet_18", "encoder_weights": "imagenet"}, "no pretrained weights"),
        ({"encoder_depth": 4}, r"model\.encoder"),
        ({"encoder_weights": True}, "no pretrained weights"),
        ({"encoder": "ukanet_18", "encoder_options": {"widht": 4}}, "did you mean 'width'"),
    ],
)
def test_options_that_say_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kanseg.create_model("unet", **options)


def test_a_built_encoder_is_taken_as_it_is():
    built = kanseg.create_encoder("unet", 4, width=2)
    with pytest.raises(ValueError, match="in_channels=4"):
        kanseg.create_model("unet", 3, encoder=built)


def test_a_checkpoint_brings_its_own_weights(monkeypatch):
    from kanseg.inference import description

    seen = []
    monkeypatch.setattr(
        description, "create_model", lambda **arguments: seen.append(arguments["encoder_weights"])
    )
    arguments = {"name": "unet", "encoder": "smp-resnet18", "encoder_weights": "imagenet"}
    description.build_model(arguments)
    description.build_model(arguments, pretrained=True)
    assert seen == [None, "imagenet"]


@pytest.mark.parametrize("origin", ["timm-", "smp-tu-"])
@pytest.mark.parametrize(
    "name",
    [
        *("hf-hub:timm/resnet18", "hf_hub:timm/resnet18", "local-dir:/tmp", "timm/resnet18"),
        *("resnet18.hf-hub:a/b", "resnet18:x", "./resnet18", "resnet18\n", "resnet18.a.b", "."),
    ],
)
def test_names_outside_of_the_lists_are_never_looked_up(origin, name):
    with pytest.raises(ValueError, match="no model"):
        external_encoder(origin + name)


@pytest.mark.parametrize("name", ["timm-test_resnet", "smp-tu-resnet18"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("checkpoint_path", "evil.pth"),
        ("pretrained", True),
        ("pretrained_cfg", {"file": "evil.pth"}),
        ("pretrained_cfg_overlay", {"file": "evil.pth"}),
        ("pretrained_strict", False),
        ("cache_dir", "/tmp"),
        ("features_only", False),
        ("feature_cls", "dict"),
        ("scriptable", True),
        ("exportable", True),
        ("no_jit", True),
        ("in_chans", 5),
        ("norm_layer", {"class_path": "os.system"}),
        ("drop_rate", [[0.5]]),
    ],
)
def test_options_outside_of_the_list_are_refused(name, option, value):
    """Some of timm's read files, unpickle them or download."""
    with pytest.raises(ValueError, match=repr(option)):
        external_encoder(name, **{option: value})


def test_tags_of_weights_are_names_too():
    with pytest.raises(ValueError, match="no weights 'hf-hub:a/b'"):
        external_encoder("timm-test_resnet", weights="hf-hub:a/b")


def test_renamed_models_of_smp_are_looked_up_in_the_list():
    assert external_encoder("smp-timm-mobilenetv3_small_100", depth=2).depth == 2
    with pytest.raises(ValueError, match="no encoder"):
        external_encoder("smp-timm-hf-hub:a/b")


@pytest.mark.parametrize("name", ["smp-resnet18", "timm-resnet18"])
def test_unknown_weights_are_named_before_anything_is_asked(name):
    with pytest.raises(ValueError, match="no weights 'imagenet81'.*known: "):
        external_encoder(name, weights="imagenet81")
