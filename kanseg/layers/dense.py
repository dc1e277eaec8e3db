"""Dense blocks: each layer reads all features before it (Huang et al. 2017, arXiv:1608.06993)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kanseg.layers.blocks import Conv


class DenseBlock(nn.Module):
    """Layers of conv 1x1 -> conv 3x3, each on the input and the outputs of all layers before it:
    (B, C, H, W) -> (B, C + num_layers * growth, H, W).

    Args:
        in_channels: C.
        num_layers: number of layers.
        growth: channels that each layer adds.
        squeeze: channels between the two convolutions of a layer, as a multiple of `growth`.
        conv: makes every convolution.
    """

    def __init__(
        self, in_channels: int, num_layers: int, growth: int, *, conv: Conv, squeeze: int = 4
    ):
        super().__init__()
        self.out_channels = in_channels + num_layers * growth
        inner = squeeze * growth
        self.layers = nn.ModuleList()
        for channels in range(in_channels, self.out_channels, growth):
            layer = nn.Sequential(conv(channels, inner, 1), conv(inner, growth, 3, padding=1))
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        return torch.cat(features, dim=1)
