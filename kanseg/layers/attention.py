"""Self-attention over the pixels of a feature map, with queries, keys and values from
convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.bases.base import at_least_float32
from kanseg.layers.blocks import Conv
from kanseg.layers.parts import reset


class ConvAttention(nn.Module):
    """x + gamma * attention(x), softmax(q k^T / sqrt(d)) v with q, k, v convolutions of x: (B, C,
    H, W) -> (B, C, H, W), any H and W.

    The block of Zhang et al. 2019 (arXiv:1805.08318) with the heads and the scale of Vaswani et al.
    2017 (arXiv:1706.03762). Time grows as N * M * C for N = H W pixels and M = N / reduction^2
    keys; memory as N + M where `scaled_dot_product_attention` has a fused kernel, which does not
    keep the N x M scores. A map of 256 x 256 has 65536 pixels, and 4.3e9 scores a head with
    reduction=1, but 6.7e7 with 8.

    Args:
        channels: C.
        conv: (in_channels, out_channels, kernel_size, padding=) -> module.
        heads: attentions side by side, each on d = inner width / heads channels.
        inner_channels: width of q, k and v, between plain 1x1 convolutions from and to C; None for
            C without these.
        kernel_size: of the convolutions, odd.
        rope: turn q and k by angles in proportion to row and column (Su et al. 2021,
            arXiv:2104.09864; on two axes Heo et al. 2024, arXiv:2403.13298), so that scores depend
            on how far two pixels are apart; needs d divisible by 4.
        rope_base: the slowest of the d / 4 rotations of an axis turns by about 1 / rope_base a
            pixel, the fastest by 1.
        reduction: keys and values see x averaged over squares of this side (Wang et al. 2021,
            arXiv:2102.12122).
        gamma: start of the learned factor on the attention; at 0 the block is the identity, and its
            convolutions learn from the second step on.

    Raises:
        ValueError: heads do not divide the width, rope on a d that 4 does not divide, an even
            kernel, a reduction below 1.
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
                f"rope needs channels a head divisible by 4, two of each axis, got {width} /"
                f" {heads}; choose inner_channels or heads so"
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
        """Put the block back to what it was when it was built, its convolutions included."""
        for part in self.children():
            reset(part)
        self.gamma.fill_(self.gamma_start)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.squeeze(x)
        reduced = self._reduced(inner)
        q, k, v = (
            self._split(self.query(inner)),
            self._split(self.key(reduced)),
            self._split(self.value(reduced)),
        )
        if self.rope:
            rows, columns = (
                torch.arange(size, device=x.device, dtype=torch.float32) for size in inner.shape[2:]
            )
            q = rotated(q, rows, columns, self.rope_base)
            k = rotated(k, self._middles(rows), self._middles(columns), self.rope_base)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.gamma * self.expand(mixed.transpose(2, 3).reshape(inner.shape))

    def _reduced(self, x: Tensor) -> Tensor:
        """Means over squares, those at the border over what there is of them: (B, C, H, W) -> (B,
        C, ceil(H / r), ceil(W / r)).
        """
        return (
            x
            if self.reduction == 1
            else F.avg_pool2d(x, self.reduction, ceil_mode=True, count_include_pad=False)
        )

    def _middles(self, places: Tensor) -> Tensor:
        """Where the averaged keys stand on an axis."""
        return (
            places
            if self.reduction == 1
            else F.avg_pool1d(
                places.view(1, 1, -1), self.reduction, ceil_mode=True, count_include_pad=False
            ).flatten()
        )

    def _split(self, x: Tensor) -> Tensor:
        """(B, heads * d, H, W) -> (B, heads, H W, d), d contiguous: the fused kernels ask for
        that.
        """
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3).contiguous()

    def extra_repr(self) -> str:
        return f"heads={self.heads}, rope={self.rope}, reduction={self.reduction}"


def rotated(x: Tensor, rows: Tensor, columns: Tensor, base: float) -> Tensor:
    """Pairs of channels (i, i + d / 2) turned, a quarter of d pairs by the row and as many by the
    column.

    Args:
        x: (B, heads, H W, d), d divisible by 4.
        rows, columns: places (H,) and (W,), in pixels.
        base: angles are place * base^(-i / (d / 4)), i = 0 .. d / 4 - 1.
    """
    quarter = x.shape[-1] // 4
    speeds = base ** (-torch.arange(quarter, device=x.device, dtype=torch.float32) / quarter)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    angles = torch.cat([place.reshape(-1, 1) * speeds for place in grid], dim=1)  # (H W, d / 2)
    cosine, sine = angles.cos(), angles.sin()
    first, second = at_least_float32(x).chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1).to(
        x.dtype
    )
