"""Self-attention over the pixels of a feature map, with convolutions for queries, keys and
values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.bases.base import at_least_float32
from kanseg.layers.blocks import Conv
from kanseg.layers.parts import reset


class ConvAttention(nn.Module):
    """Residual self-attention, x + gamma * softmax(q k^T / sqrt(d)) v with convolutions q, k and v
    of x: (B, C, H, W) -> (B, C, H, W), any H and W.

    The block of Zhang et al. 2019 (arXiv:1805.08318) with the heads and the scale of Vaswani et al.
    2017 (arXiv:1706.03762). Time grows as N * M * C for N = H W pixels and M = N / reduction^2
    keys; memory as N + M where `scaled_dot_product_attention` has a fused kernel, which does not
    store the N x M scores. A map of 256 x 256 pixels has 4.3e9 scores per head with reduction=1,
    and 6.7e7 with reduction=8.

    Args:
        channels: C.
        conv: (in_channels, out_channels, kernel_size, padding=) -> module.
        heads: number of attention heads, each with d = inner width / heads channels.
        inner_channels: width of q, k and v, with plain 1x1 convolutions from and to C; None for C
            without these convolutions.
        kernel_size: kernel size of the q, k and v convolutions, odd.
        rope: rotary position embedding of row and column (Su et al. 2021, arXiv:2104.09864; on two
            axes Heo et al. 2024, arXiv:2403.13298), which makes scores depend on the offset between
            two pixels; needs d divisible by 4.
        rope_base: the slowest of the d / 4 rotations of an axis turns by about 1 / rope_base per
            pixel, the fastest by 1.
        reduction: side of the squares over which the input of keys and values is averaged (Wang et
            al. 2021, arXiv:2102.12122).
        gamma: initial value of the learned factor on the attention. At 0 the block starts as the
            identity, and its convolutions learn from the second step on.

    Raises:
        ValueError: heads that do not divide the width, rope with d not divisible by 4, an even
            kernel size, or a reduction below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        conv: Conv,
        heads: int = 1,
        inner_channels: int | None = None,
        kernel_size: int = 3,
        rope: bool = False,
        rope_base: float = 100.0,
        reduction: int = 1,
        gamma: float = 0.1,
    ):
        super().__init__()
        width = channels if inner_channels is None else inner_channels
        if heads < 1 or width % heads:
            raise ValueError(
                f"heads must divide the width of q, k and v, got heads={heads} and a width of"
                f" {width}"
            )
        if rope and width // heads % 4:
            raise ValueError(
                f"rope needs a number of channels per head divisible by 4, got {width} / {heads}:"
                " change inner_channels or heads"
            )
        if kernel_size % 2 == 0 or reduction < 1:
            raise ValueError(
                f"kernel_size must be odd and reduction at least 1, got {kernel_size} and"
                f" {reduction}"
            )
        self.heads, self.rope, self.rope_base, self.reduction = heads, rope, rope_base, reduction
        self.squeeze = nn.Identity() if inner_channels is None else nn.Conv2d(channels, width, 1)
        self.query, self.key, self.value = (
            conv(width, width, kernel_size, padding=kernel_size // 2) for _ in range(3)
        )
        self.expand = nn.Identity() if inner_channels is None else nn.Conv2d(width, channels, 1)
        self.gamma_start = gamma
        self.gamma = nn.Parameter(torch.full((1,), gamma))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the block and its convolutions to their initial state."""
        for part in self.children():
            reset(part)
        self.gamma.fill_(self.gamma_start)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.squeeze(x)
        # Averages over squares; at the border over the pixels that exist.
        pool = {"kernel_size": self.reduction, "ceil_mode": True, "count_include_pad": False}
        reduced = inner
        if self.reduction > 1:
            reduced = F.avg_pool2d(inner, **pool)
        q = self._split_heads(self.query(inner))
        k = self._split_heads(self.key(reduced))
        v = self._split_heads(self.value(reduced))
        if self.rope:
            rows = torch.arange(inner.shape[2], device=x.device, dtype=torch.float32)
            columns = torch.arange(inner.shape[3], device=x.device, dtype=torch.float32)
            q = rotate(q, rows, columns, self.rope_base)
            if self.reduction > 1:
                rows = F.avg_pool1d(rows.view(1, 1, -1), **pool).flatten()
                columns = F.avg_pool1d(columns.view(1, 1, -1), **pool).flatten()
            k = rotate(k, rows, columns, self.rope_base)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.gamma * self.expand(attended.transpose(2, 3).reshape(inner.shape))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, heads * d, H, W) -> (B, heads, H W, d), contiguous as the fused kernels need it."""
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3).contiguous()

    def extra_repr(self) -> str:
        return f"heads={self.heads}, rope={self.rope}, reduction={self.reduction}"


def rotate(x: Tensor, rows: Tensor, columns: Tensor, base: float) -> Tensor:
    """Rotate pairs of channels (i, i + d / 2): d / 4 pairs by the row and d / 4 by the column.

    Args:
        x: (B, heads, H W, d), d divisible by 4.
        rows, columns: coordinates (H,) and (W,), in pixels.
        base: angles are coordinate * base^(-i / (d / 4)), i = 0 .. d / 4 - 1.
    """
    quarter = x.shape[-1] // 4
    speeds = base ** (-torch.arange(quarter, device=x.device, dtype=torch.float32) / quarter)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * speeds for axis in grid], dim=1)  # (H W, d / 2)
    cosine, sine = angles.cos(), angles.sin()
    first, second = at_least_float32(x).chunk(2, dim=-1)
    pairs = [first * cosine - second * sine, first * sine + second * cosine]
    return torch.cat(pairs, dim=-1).to(x.dtype)
