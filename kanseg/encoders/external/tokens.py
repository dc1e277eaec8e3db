"""A feature pyramid from the tokens of a plain vision transformer."""

from __future__ import annotations

from torch import Tensor, nn

NARROWEST = 8  # channels of a feature, at least


class TokenPyramid(nn.Module):
    """Tokens of several depths, all of one stride -> features of strides 4, 8, ..., 2^depth.

    As DPT reassembles them (Ranftl et al. 2021, arXiv:2103.13413): a 1x1 convolution of each map of
    tokens, then a transposed convolution that enlarges it or a strided one that reduces it. The
    tokens are normalized first, since those before the last norm of a transformer can be large.

    Args:
        channels: D, of the tokens.
        stride: pixels of the image per token, a power of two.
        depth: halvings of the image at the last feature, 2 or more.
    """

    def __init__(self, channels: int, *, stride: int, depth: int):
        super().__init__()
        # The deepest feature is as wide as the tokens if the depth is 5.
        self.out_channels = [max(NARROWEST, channels * 2**i // 32) for i in range(2, depth + 1)]
        self.levels = nn.ModuleList()
        for i, out_channels in enumerate(self.out_channels, start=2):
            resize = _resize(out_channels, stride, 2**i)
            self.levels.append(
                nn.Sequential(_TokenNorm(channels), nn.Conv2d(channels, out_channels, 1), resize)
            )

    def forward(self, tokens: list[Tensor]) -> list[Tensor]:
        """[(B, D, h, w)] of each depth -> [(B, C_i, h * stride / 2^i, w * stride / 2^i)]."""
        return [level(x) for level, x in zip(self.levels, tokens, strict=True)]


class _TokenNorm(nn.LayerNorm):
    """A layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _resize(channels: int, stride: int, wanted: int) -> nn.Module:
    """The layer that changes the stride of a feature."""
    if wanted < stride:
        factor = stride // wanted
        return nn.ConvTranspose2d(channels, channels, factor, stride=factor)
    if wanted > stride:
        return nn.Conv2d(channels, channels, 3, stride=wanted // stride, padding=1)
    return nn.Identity()


def token_stride(patch_size: int) -> int:
    """The power of two that is nearest to a patch size: 16 for 14."""
    return min((4, 8, 16, 32), key=lambda stride: abs(stride - patch_size))
