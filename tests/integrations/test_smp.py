"""The contract of segmentation_models.pytorch's encoders: what its own tests ask of one, and what
its decoders need.
"""

import importlib
import sys

import pytest
import segmentation_models_pytorch as smp
import torch

import kanseg
from kanseg.integrations.smp import ENTRIES, SMPEncoder, register
from kanseg.layers.regularization import kan_layers

MODELS = [
    name for name in smp.MODEL_ARCHITECTURES_MAPPING if name != "dpt"
]  # DPT takes timm's models only: tests/integrations/test_timm.py
TINY = {name: register(f"kanseg-tiny-{name}", name, width=2) for name in ("ukanet_18", "unet")}


def encoder(name="ukanet_18", **options):
    return smp.encoders.get_encoder(TINY[name], weights=None, **options).eval()


def test_every_encoder_is_there_with_every_basis():
    for name in kanseg.list_encoders():
        assert ENTRIES[f"kanseg-{name}"]["params"] == {"name": name, "basis": "gram"}
        for basis in kanseg.list_bases():
            entry = ENTRIES[f"kanseg-{name}-{basis}"]
            assert entry == {
                "encoder": SMPEncoder,
                "pretrained_settings": {},
                "params": {"name": name, "basis": basis},
            }


def test_the_basis_is_the_one_in_the_name():
    net = smp.encoders.get_encoder("kanseg-unet-chebyshev", weights=None, depth=1)
    assert {type(layer.basis).__name__ for layer in kan_layers(net)} == {"Chebyshev"}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels", [1, 3, 4, 13])
def test_features_start_with_the_image_and_halve(name, depth, channels):
    net = encoder(name, depth=depth, in_channels=channels)
    x = torch.randn(1, channels, 64, 96)
    with torch.no_grad():
        features = net(x)
    assert features[0] is x
    assert [tuple(f.shape) for f in features] == [
        (1, c, 64 >> i, 96 >> i) for i, c in enumerate(net.out_channels)
    ]
    assert (net._in_channels, net._depth, net._out_channels, net.output_stride) == (
        channels,
        depth,
        net.out_channels,
        2**depth,
    )
    assert isinstance(net._out_channels, list)


def test_features_are_those_of_our_encoder():
    net = encoder()
    ours = kanseg.create_encoder("ukanet_18", depth=5, width=2).eval()
    ours.load_state_dict(net.encoder.state_dict())
    x = torch.randn(1, 3, 61, 83)
    torch.testing.assert_close(net(x)[1:], ours(x)[1:])


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", TINY)
def test_dilated_encoders_keep_the_size(name, output_stride):
    net = encoder(name, output_stride=output_stride)
    with torch.no_grad():
        strides = [64 // f.shape[-1] for f in net(torch.randn(1, 3, 64, 64))]
    assert strides == [min(2**i, output_stride) for i in range(6)]
    assert net.output_stride == net._output_stride == output_stride


@pytest.mark.parametrize("depth", [0, 6, 2.0])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match="1 to 5"):
        encoder(depth=depth)


def test_gradients_reach_every_layer_that_a_decoder_reads():
    net = encoder().train()
    net(torch.randn(2, 3, 64, 64))[-1].square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.slow_except("-4", "Unet")
def test_every_decoder_runs(model, channels):
    net = smp.create_model(
        model, TINY["ukanet_18"], encoder_weights=None, in_channels=channels, classes=2
    ).eval()
    with torch.no_grad():
        assert net(torch.randn(1, channels, 128, 128)).shape == (1, 2, 128, 128)


def test_trained_weights_survive_other_channels():
    net = encoder()
    gray = torch.randn(1, 1, 64, 64)
    expected = net(gray.expand(-1, 3, -1, -1))[1:]
    net.set_in_channels(1)
    torch.testing.assert_close(net(gray)[1:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated:FutureWarning")
def test_flags_about_compilers_are_true():
    net, x = encoder("unet", depth=1), torch.randn(1, 3, 32, 32)
    assert (net._is_torch_exportable, net._is_torch_compilable, net._is_torch_scriptable) == (
        True,
        True,
        False,
    )
    expected = net(x)
    torch.testing.assert_close(torch.export.export(net, (x,), strict=True).module()(x), expected)
    torch.testing.assert_close(
        torch.compile(net, fullgraph=True, dynamic=True, backend="eager")(x), expected
    )
    with pytest.raises(RuntimeError, match="TorchScript"):
        torch.jit.script(net)


def test_a_model_is_saved_and_restored(tmp_path):
    net = smp.Unet(TINY["ukanet_18"], encoder_weights=None, in_channels=4).eval()
    net.save_pretrained(tmp_path)
    x = torch.randn(1, 4, 64, 64)
    torch.testing.assert_close(smp.from_pretrained(tmp_path).eval()(x), net(x))


def test_own_options_get_a_name():
    assert register("kanseg-mine", "ukanet_18", basis="rbf", grid_size=4, width=2) == "kanseg-mine"
    net = smp.encoders.get_encoder("kanseg-mine", weights=None)
    assert {layer.basis.num_functions for layer in kan_layers(net)} == {4}
    register("kanseg-mine", "ukanet_18", width=4)
    assert smp.encoders.get_encoder("kanseg-mine", weights=None).out_channels[1] == 8


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"encoder": "unet"}, "a name of segmentation_models.pytorch"),
        ("tu-mine", {"encoder": "unet"}, "a name of segmentation_models.pytorch"),
        ("kanseg-x", {"encoder": "unett"}, "did you mean 'unet'"),
        ("kanseg-x", {"encoder": "unet", "widht": 3}, "did you mean 'width'"),
        ("kanseg-x", {"encoder": "unet", "depth": 3}, "encoder_depth"),
    ],
)
def test_bad_names_and_options_are_refused_at_once(name, options, message):
    with pytest.raises(ValueError, match=message):
        register(name, **options)
    assert "kanseg-x" not in ENTRIES


@pytest.mark.parametrize(
    ("part", "package"),
    [
        ("smp", "segmentation_models_pytorch.encoders"),
        ("timm", "timm.data"),
        ("torchvision", "torchvision.ops.feature_pyramid_network"),
    ],
)
def test_a_missing_library_is_named(part, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"kanseg.integrations.{part}", raising=False)
    with pytest.raises(ImportError, match=f"kanseg.integrations.{part} needs .*pip install"):
        importlib.import_module(f"kanseg.integrations.{part}")
