import pytest
import torch
from torch import nn

import kanseg
from kanseg.layers import KANConv2d
from kanseg.models.ukan import TokenKAN


def test_size_is_near_ukans():
    """6.36 M at widths 128, 160, 256 with B-splines; U-KAN has one more number an edge, the scale
    of its spline.
    """
    net = kanseg.create_model("ukan", classes=1, basis="bspline", stem={"basis": "none"})
    edges = sum(
        m.base_conv.weight.numel()
        for m in net.modules()
        if isinstance(m, KANConv2d) and m.basis is not None
    )
    assert sum(p.numel() for p in net.parameters()) + edges == pytest.approx(6.36e6, rel=0.01)


def test_functions_stand_in_the_token_blocks_alone():
    net = kanseg.create_model("ukan", basis="gram", stem={"basis": "none"})
    tokens = [
        layer
        for m in net.modules()
        if isinstance(m, TokenKAN)
        for layer in m.modules()
        if isinstance(layer, KANConv2d)
    ]
    assert len(tokens) == 12
    assert all(m.basis is not None for m in tokens)
    assert sum(m.basis is not None for m in net.modules() if isinstance(m, KANConv2d)) == len(
        tokens
    )


def test_baseline_is_the_perceptron_of_the_same_shape():
    net = kanseg.create_model("ukan", basis="none", width=16)
    block = next(m for m in net.modules() if isinstance(m, TokenKAN))
    token = block.maps[0][0]
    x = torch.randn(1, 20, 3, 4)
    expected = nn.functional.linear(x.movedim(1, -1), token.base_conv.weight[:, :, 0, 0]).movedim(
        -1, 1
    )
    torch.testing.assert_close(token(x), expected)


def test_block_is_its_input_where_every_path_is_dropped():
    block = TokenKAN(4, token=lambda a, b: nn.Conv2d(a, b, 1), drop_path=0.999999)
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(block(x), x)
    assert not torch.equal(block.eval()(x), x)
