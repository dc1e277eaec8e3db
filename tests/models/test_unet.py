import pytest
import torch
from torch import nn

import kanseg
from kanseg.bases import Basis
from kanseg.layers import ConvAttention, FocalModulation, KANConv2d


def widths(net):
    return [m.out_channels for m in net.modules() if isinstance(m, KANConv2d)]


def test_widths_double_down_and_halve_up():
    assert widths(kanseg.create_model("unet", basis="none", width=4, depth=2)) == [
        4,
        4,
        8,
        8,
        16,
        16,
        8,
        8,
        4,
        4,
    ]


def test_stride_replaces_pooling():
    net = kanseg.create_model("unet", basis="none", width=4, depth=2, downsample="stride")
    assert [m.base_conv.stride[0] for m in net.encoder.modules() if isinstance(m, KANConv2d)] == [
        1,
        1,
        2,
        1,
        2,
        1,
    ]


def test_parameters_of_the_plain_net_are_those_of_its_convolutions():
    """Worked out by hand: 9 weights a pair of channels, 2 a norm channel, the head with
    its bias.
    """
    convs = [(3, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (24, 8), (8, 8), (12, 4), (4, 4)]
    expected = sum(9 * a * b + 2 * b for a, b in convs) + 4 * 2 + 2
    assert (
        sum(
            p.numel()
            for p in kanseg.create_model("unet", basis="none", width=4, depth=2).parameters()
        )
        == expected
    )


mixers = pytest.mark.parametrize("mixer", ["attention", "focal"])


def test_without_a_mixer_the_keys_are_those_of_the_convolutions():
    net = kanseg.create_model("unet", basis="none", width=4, depth=1, mixer="conv")
    decoder = {name for name in net.state_dict() if name.startswith("decoder.")}
    parts = (
        "base_conv.weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    )
    assert decoder == {f"decoder.blocks.0.{i}.{part}" for i in range(2) for part in parts}


def test_the_mixer_of_every_level_stands_before_its_convolutions():
    for mixer, kind in (("attention", ConvAttention), ("focal", FocalModulation)):
        net = kanseg.create_model("unet", width=4, depth=3, mixer=mixer)
        assert all(isinstance(block[0], kind) and len(block) == 3 for block in net.decoder.blocks)
        assert not any(isinstance(m, kind) for m in net.encoder.modules())
        assert [block[1].in_channels for block in net.decoder.blocks] == [48, 24, 12]


def test_keys_are_averaged_to_the_size_of_the_lowest_level_or_as_asked():
    net = kanseg.create_model(
        "unet", width=4, depth=3, mixer="attention", mixer_options={"heads": 2}
    )
    assert [(block[0].reduction, block[0].heads) for block in net.decoder.blocks] == [
        (1, 2),
        (2, 2),
        (4, 2),
    ]
    net = kanseg.create_model(
        "unet", width=4, depth=3, mixer="attention", mixer_options={"reduction": 3}
    )
    assert {block[0].reduction for block in net.decoder.blocks} == {3}


@mixers
@pytest.mark.parametrize("basis", ["bspline", "gram", "none"])
def test_mixers_keep_the_contracts_of_the_net(mixer, basis):
    net = kanseg.create_model("unet", basis=basis, width=4, depth=2, mixer=mixer)
    x = torch.randn(2, 3, 33, 20)
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    twin = kanseg.create_model("unet", basis=basis, width=4, depth=2, mixer=mixer)
    twin.load_state_dict(net.state_dict())
    net.eval()
    assert torch.equal(twin.eval()(x), net(x))
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)
    for size in ((61, 83), (33, 100), (1, 1)):
        assert net(torch.randn(1, 3, *size)).shape == (1, 2, *size)
    assert any(isinstance(m, Basis) for m in net.modules()) == (basis != "none")


@mixers
def test_options_reach_the_convolutions_of_a_mixer(mixer):
    net = kanseg.create_model(
        "unet",
        basis="legendre",
        degree=5,
        norm="instance",
        width=4,
        depth=2,
        mixer=mixer,
        stem=None,
        share="edge",
    )
    assert {(m.basis.degree, type(m.norm)) for m in net.modules() if isinstance(m, KANConv2d)} == {
        (5, nn.InstanceNorm2d)
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "atention"}, "'atention'.* 'attention'"),
        (
            {"mixer": "attention", "mixer_options": {"head": 2}},
            "'head'.* 'heads'",
        ),
        ({"mixer_options": {"heads": 2}}, "'conv'.* 'heads'"),
    ],
)
def test_bad_mixers_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        kanseg.create_model("unet", width=4, **options)


@pytest.mark.parametrize("options", [{"encoder": "u2kanet_small"}, {"width": 1.4, "depth": 5}])
def test_attention_reads_keys_of_the_decoders_lowest_size_whatever_the_channels(options):
    net = kanseg.create_model("unet", mixer="attention", **options)
    assert [m.reduction for m in net.modules() if isinstance(m, ConvAttention)] == [1, 2, 4, 8, 16]
