import torch
from torch import nn

from kanseg.layers import BasicBlock, BottleneckBlock, conv_stack, kan_conv


def plain(in_channels, out_channels, kernel_size, stride=1, padding=0):
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)


def test_basic_block_adds_its_input():
    block = BasicBlock(4, 4, conv=plain)
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(block(x), block.body(x) + x)


def test_shortcut_is_a_convolution_where_shape_changes():
    for kind in (BasicBlock, BottleneckBlock):
        block = kind(4, 8, 2, conv=plain)
        assert block.shortcut.kernel_size == (1, 1)
        assert block(torch.randn(1, 4, 7, 9)).shape == (1, 8, 4, 5)


def test_bottleneck_block_works_at_a_quarter_of_its_width():
    block = BottleneckBlock(16, 32, conv=plain)
    assert [c.out_channels for c in block.body] == [8, 8, 32]


def test_conv_stack_strides_once():
    stack = conv_stack(kan_conv(basis="gram"), [3, 4, 4], stride=2)
    assert [conv.base_conv.stride for conv in stack] == [(2, 2), (1, 1)]
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(stack.eval()(x), stack[1](stack[0](x)))
