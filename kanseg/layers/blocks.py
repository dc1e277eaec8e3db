"""Blocks of convolutions. `conv` is any callable (in_channels, out_channels, kernel_size, stride=,
padding=) -> module that ends in its own norm and activation; it carries the basis and all its
options. Where depthwise convolutions are needed it takes groups= too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from kanseg.layers.kan_conv import KANConv2d

Conv = Callable[..., nn.Module]
Block = Callable[..., nn.Module]


def kan_conv(**options: object) -> Conv:
    """A KANConv2d with all options filled in, as models take it."""
    return partial(KANConv2d, **options)


class BasicBlock(nn.Module):
    """conv 3x3 -> conv 1x1, plus the input (a 1x1 convolution of it where channels or stride
    change).

    The residual block of torch-conv-kan's ResKANet and UKANet 18/34: a KAN convolution has its
    non-linearity inside, so nothing follows the sum. (B, in_channels, H, W) -> (B, out_channels,
    ceil(H / stride), ceil(W / stride)).
    """

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, conv: Conv):
        super().__init__()
        self.body = nn.Sequential(
            conv(in_channels, out_channels, 3, stride=stride, padding=1),
            conv(out_channels, out_channels, 1),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride, conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class BottleneckBlock(nn.Module):
    """conv 1x1 to a quarter of the channels -> conv 3x3 -> conv 1x1 back, plus the input
    (ResNet-50's block).

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, conv: Conv):
        super().__init__()
        inner = max(out_channels // self.expansion, 1)
        self.body = nn.Sequential(
            conv(in_channels, inner, 1),
            conv(inner, inner, 3, stride=stride, padding=1),
            conv(inner, out_channels, 1),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride, conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def _shortcut(in_channels: int, out_channels: int, stride: int, conv: Conv) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv(in_channels, out_channels, 1, stride=stride)


def stage(
    block: Block, in_channels: int, out_channels: int, num_blocks: int, *, stride: int = 1
) -> nn.Sequential:
    """`num_blocks` blocks in a row; the first one changes channels and stride."""
    first = block(in_channels, out_channels, stride=stride)
    return nn.Sequential(first, *(block(out_channels, out_channels) for _ in range(num_blocks - 1)))


def conv_stack(conv: Conv, channels: Sequence[int], *, stride: int = 1) -> nn.Sequential:
    """3x3 convolutions through the given channels: [in, c1, c2, ...]; the first one has the
    stride.
    """
    pairs = zip(channels[:-1], channels[1:], strict=True)
    return nn.Sequential(
        *(
            conv(a, b, 3, stride=stride if i == 0 else 1, padding=1)
            for i, (a, b) in enumerate(pairs)
        )
    )
