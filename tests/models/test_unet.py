import kanseg
from kanseg.layers import KANConv2d


def widths(net):
    return [m.out_channels for m in net.modules() if isinstance(m, KANConv2d)]


def test_widths_double_down_and_halve_up():
    assert widths(kanseg.create_model("unet", basis="none", width=4, depth=2)) == [4, 4, 8, 8, 16, 16, 8, 8, 4, 4]


def test_stride_replaces_pooling():
    net = kanseg.create_model("unet", basis="none", width=4, depth=2, downsample="stride")
    assert [m.base_conv.stride[0] for m in net.encoder.modules() if isinstance(m, KANConv2d)] == [1, 1, 2, 1, 2, 1]


def test_parameters_of_the_plain_net_are_those_of_its_convolutions():
    """Worked out by hand: 9 weights a pair of channels, 2 a norm channel, the head with its bias."""
    convs = [(3, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (24, 8), (8, 8), (12, 4), (4, 4)]
    expected = sum(9 * a * b + 2 * b for a, b in convs) + 4 * 2 + 2
    assert sum(p.numel() for p in kanseg.create_model("unet", basis="none", width=4, depth=2).parameters()) == expected
