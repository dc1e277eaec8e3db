"""Blocks that read everything before them (DenseNet, Huang et al. 2017, arXiv:1608.06993)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kanseg.layers.blocks import Conv


class DenseBlock(nn.Module):
    """Layers of conv 1x1 -> conv 3x3, each reading the input and all layers before it: (B, C, H, W)
    -> (B, C + num_layers * growth, H, W).

    Args:
        in_channels: C.
        num_layers: number of layers.
        growth: channels that each layer adds.
        squeeze: channels between the two convolutions of a layer, in multiples of `growth`.
        conv: every convolution.
    """

    def __init__(
        self, in_channels: int, num_layers: int, growth: int, *, conv: Conv, squeeze: int = 4
    ):
        super().__init__()
        self.out_channels = in_channels + num_layers * growth
        inner = squeeze * growth
        inputs = range(in_channels, self.out_channels, growth)
        self.layers = nn.ModuleList(
            nn.Sequential(conv(c, inner, 1), conv(inner, growth, 3, padding=1)) for c in inputs
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        return torch.cat(features, dim=1)
