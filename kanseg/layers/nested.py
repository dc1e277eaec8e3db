"""U-Nets small enough to be a block of a larger one (U2-Net's RSU, Qin et al. 2020,
arXiv:2005.09007).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.layers.blocks import Conv


def resize_like(x: Tensor, like: Tensor, *, align_corners: bool = False) -> Tensor:
    """Resize x bilinearly to the height and width of `like`: (B, C, h, w) -> (B, C, H, W)."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)


class ResidualU(nn.Module):
    """Residual U-block: a convolution plus a small U-Net on its output, (B, in_channels, H, W) ->
    (B, out_channels, H, W).

    Args:
        in_channels, mid_channels, out_channels: channels before, inside and after the U-Net.
        height: number of levels; all but the last two halve the image (rounding up), so any H and
            W from 1 on are possible.
        conv: every convolution, (in_channels, out_channels, 3, padding=, dilation=) -> module.
        stem: the first convolution; `conv` by default.
        dilated: use dilation 2^i at level i instead of halving (U2-Net's RSU-4F, for small
            features).
        align_corners: option of the bilinear upsampling.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        height: int,
        *,
        conv: Conv,
        stem: Conv | None = None,
        dilated: bool = False,
        align_corners: bool = False,
    ):
        super().__init__()
        if height < 3:
            raise ValueError(f"height must be at least 3, got {height}")
        down = [1] * (height - 1) + [2]
        if dilated:
            down = [2**i for i in range(height)]
        up = down[-2::-1]
        self.enter = (stem or conv)(in_channels, out_channels, 3, padding=1)
        before = [out_channels] + [mid_channels] * (height - 1)
        after = [mid_channels] * (height - 2) + [out_channels]
        self.down = nn.ModuleList(
            conv(c, mid_channels, 3, padding=d, dilation=d)
            for c, d in zip(before, down, strict=True)
        )
        self.up = nn.ModuleList(
            conv(2 * mid_channels, c, 3, padding=d, dilation=d)
            for c, d in zip(after, up, strict=True)
        )
        self.dilated, self.align_corners = dilated, align_corners

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        entered, features = x, []
        for i, conv in enumerate(self.down):
            if 0 < i < len(self.down) - 1 and not self.dilated:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = conv(x)
            features.append(x)
        features.pop()
        for conv in self.up:
            skip = features.pop()
            if x.shape[-2:] != skip.shape[-2:]:
                x = resize_like(x, skip, align_corners=self.align_corners)
            x = conv(torch.cat([x, skip], dim=1))
        return x + entered
