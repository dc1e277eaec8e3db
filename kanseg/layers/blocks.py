"""Blocks of convolutions, for any kind of convolution.

`conv` is any callable (in_channels, out_channels, kernel_size, stride=, padding=) -> module with
its own norm and activation; the basis and its options are part of it. Blocks with depthwise
convolutions also pass groups=.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from kanseg.layers.kan_conv import KANConv2d

Conv = Callable[..., nn.Module]
Block = Callable[..., nn.Module]


def kan_conv(**options: object) -> Conv:
    """KANConv2d with the given options, as the `conv` of a block or a model."""
    return partial(KANConv2d, **options)


class BasicBlock(nn.Module):
    """Residual block: conv 3x3 -> conv 1x1, plus the input (through a 1x1 convolution if channels
    or stride change).

    The block of torch-conv-kan's ResKANet and UKANet 18/34. KAN convolutions contain their
    non-linearity, so no activation follows the sum. (B, in_channels, H, W) -> (B, out_channels,
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
    """Residual bottleneck block of ResNet-50: conv 1x1 to a quarter of the channels -> conv 3x3 ->
    conv 1x1 back, plus the input.

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
    """A sequence of `num_blocks` blocks; the first one changes channels and stride."""
    blocks = [block(in_channels, out_channels, stride=stride)]
    for _ in range(num_blocks - 1):
        blocks.append(block(out_channels, out_channels))
    return nn.Sequential(*blocks)


def conv_stack(conv: Conv, channels: Sequence[int], *, stride: int = 1) -> nn.Sequential:
    """A sequence of 3x3 convolutions with channels [in, c1, c2, ...]; the first one is strided."""
    convs = []
    for before, after in zip(channels[:-1], channels[1:], strict=True):
        convs.append(conv(before, after, 3, stride=stride, padding=1))
        stride = 1
    return nn.Sequential(*convs)
