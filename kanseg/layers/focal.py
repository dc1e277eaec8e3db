"""Focal modulation: each pixel is modulated by its context at several scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.layers.blocks import Conv
from kanseg.layers.parts import reset


class FocalModulation(nn.Module):
    """x + gamma * proj(q * h(sum_l gate_l * context_l)): (B, C, H, W) -> (B, C, H, W), any H and W,
    at a cost that grows as H W.

    q, the first context and the gates are a 1x1 convolution of x; context l is a depthwise
    convolution of context l - 1, the last one the GELU of the mean over the whole image (Yang et
    al. 2022, arXiv:2203.11926, eqs. 4 to 7, with the scaled residual of its blocks).

    Args:
        channels: C.
        conv: (in_channels, out_channels, kernel_size, padding=, groups=) -> module.
        levels: number of depthwise convolutions.
        window: kernel size of the first of them, odd.
        factor: growth of the kernel size from level to level, even.
        full_kan: use `conv` for the 1x1 convolutions (f, h, proj) too; False keeps them linear, as
            in the paper.
        normalize: divide the sum by the number of contexts.
        gamma: initial value of the learned factor on the modulated part.

    Raises:
        ValueError: fewer than one level, an even window or an odd factor.
    """

    def __init__(
        self,
        channels: int,
        *,
        conv: Conv,
        levels: int = 2,
        window: int = 3,
        factor: int = 2,
        full_kan: bool = True,
        normalize: bool = True,
        gamma: float = 0.1,
    ):
        super().__init__()
        if levels < 1 or window < 1 or window % 2 == 0 or factor < 0 or factor % 2:
            raise ValueError(
                f"levels must be at least 1, window odd and factor even, got levels={levels},"
                f" window={window}, factor={factor}"
            )
        self.parts = [channels, channels, levels + 1]
        self.scale = 1.0
        if normalize:
            self.scale = 1 / (levels + 1)
        project = conv if full_kan else nn.Conv2d
        self.f = project(channels, sum(self.parts), 1)
        self.levels = nn.ModuleList()
        for level in range(levels):
            kernel = window + factor * level
            depthwise = conv(channels, channels, kernel, padding=kernel // 2, groups=channels)
            self.levels.append(depthwise)
        self.h = project(channels, channels, 1)
        self.proj = project(channels, channels, 1)
        self.gamma_start = gamma
        self.gamma = nn.Parameter(torch.full((1,), gamma))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the block and its convolutions to their initial state."""
        for part in self.children():
            reset(part)
        self.gamma.fill_(self.gamma_start)

    def forward(self, x: Tensor) -> Tensor:
        query, context, gates = self.f(x).split(self.parts, dim=1)
        total = 0.0
        for level, gate in zip(self.levels, gates[:, :-1].split(1, dim=1), strict=True):
            context = level(context)
            total = total + context * gate
        total = total + F.gelu(context.mean(dim=(2, 3), keepdim=True)) * gates[:, -1:]
        return x + self.gamma * self.proj(query * self.h(total * self.scale))
