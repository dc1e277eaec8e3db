"""U-KAN (Li et al. 2024, arXiv:2406.02918): plain convolutions, and token KAN blocks at the two
deepest levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from kanseg.encoders import ENCODERS, Encoder, check_size, scaled
from kanseg.layers.blocks import Conv, conv_stack
from kanseg.layers.nested import resize_like
from kanseg.layers.parts import ChannelNorm, DropPath
from kanseg.models.segmentation import MODELS, SegmentationModel

# Channels of the levels with convolutions and with token blocks, as multiples of the width.
CONV_MULTIPLES = (1 / 8, 1 / 4, 1.0)
TOKEN_MULTIPLES = (1.25, 2.0)
Token = Callable[[int, int], nn.Module]


class TokenKAN(nn.Module):
    """Residual block of three token layers, each followed by a depthwise convolution: (B, C, H, W)
    -> the same shape.

    Args:
        channels: C.
        token: (channels, channels) -> module, a 1x1 KAN convolution.
        drop_path: probability that a sample skips the block in training.
    """

    def __init__(self, channels: int, *, token: Token, drop_path: float = 0.0):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.maps = nn.Sequential()
        for _ in range(3):
            depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            conv = nn.Sequential(depthwise, nn.BatchNorm2d(channels), nn.ReLU())
            self.maps.append(nn.Sequential(token(channels, channels), conv))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.maps(self.norm(x)))


def _tokens(channels: int, num_blocks: int, token: Token, drop_path: float) -> list[nn.Module]:
    """Token blocks of one level, and the norm after them."""
    blocks = [TokenKAN(channels, token=token, drop_path=drop_path) for _ in range(num_blocks)]
    return [*blocks, ChannelNorm(channels)]


def _token(conv: Conv, inner_channels: int | float | None, base_activation: str | None) -> Token:
    """(in_channels, out_channels) -> 1x1 KAN convolution without norm and activation."""
    return partial(
        conv,
        kernel_size=1,
        norm=None,
        activation=None,
        inner_channels=inner_channels,
        base_activation=base_activation,
    )


@ENCODERS.register("ukan")
def ukan_encoder(
    in_channels: int,
    *,
    conv: Conv,
    plain: Conv,
    stem: Conv,
    width: float = 128,
    depth: int = 5,
    num_blocks: int = 1,
    drop_path: float = 0.0,
    inner_channels: int | float | None = None,
    base_activation: str | None = "silu",
) -> Encoder:
    """The image, levels of two plain convolutions and a 2x2 max pool, then levels of token blocks.

    The levels have width / 8, width / 4, width, 1.25 width and 2 width channels.
    """
    check_size(width, depth, deepest=5)
    multiples = (*CONV_MULTIPLES, *TOKEN_MULTIPLES)[:depth]
    channels = [in_channels, *(scaled(width, multiple) for multiple in multiples)]
    token = _token(conv, inner_channels, base_activation)
    stages: list[nn.Module] = [nn.Identity()]
    for i, (a, b) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
        if i < len(CONV_MULTIPLES):
            first_conv = stem if i == 0 else plain
            convs = [first_conv(a, b, 3, padding=1), *conv_stack(plain, [b, b])]
            stages.append(nn.Sequential(*convs, nn.MaxPool2d(2, ceil_mode=True)))
        else:
            embedding = [nn.Conv2d(a, b, 3, stride=2, padding=1), ChannelNorm(b)]
            stages.append(nn.Sequential(*embedding, *_tokens(b, num_blocks, token, drop_path)))
    return Encoder(stages, in_channels=in_channels, out_channels=channels)


class AddingDecoder(nn.Module):
    """Feature pyramid -> one feature map of the image's size.

    Each level applies its convolutions, upsamples bilinearly, adds the skip connection and applies
    its refiner.

    Args:
        convs: one module per level, the deepest first; the output of the last one is resized to the
            image and has no skip connection.
        refiners: module after each skip connection.
        out_channels: channels of the last level.
    """

    def __init__(
        self, convs: Sequence[nn.Module], refiners: Sequence[nn.Module], *, out_channels: int
    ):
        super().__init__()
        self.convs, self.refiners = nn.ModuleList(convs), nn.ModuleList(refiners)
        self.out_channels = out_channels

    def forward(self, features: list[Tensor]) -> Tensor:
        """[(B, C_i, H_i, W_i)] from large to small -> (B, out_channels, H_0, W_0)."""
        x = features[-1]
        for conv, refine, skip in zip(self.convs, self.refiners, features[-2:0:-1], strict=False):
            x = refine(resize_like(conv(x), skip) + skip)
        return resize_like(self.convs[-1](x), features[0])


@MODELS.register("ukan")
def ukan(
    in_channels: int,
    classes: int,
    *,
    conv: Conv,
    plain: Conv,
    stem: Conv,
    width: float = 128,
    depth: int = 5,
    num_blocks: int = 1,
    drop_path: float = 0.0,
    inner_channels: int | float | None = None,
    base_activation: str | None = "silu",
    aux_params: dict[str, object] | None = None,
) -> SegmentationModel:
    """Plain convolutions, and token blocks at two levels of the encoder and of the decoder; skip
    connections are added.

    Only the token blocks have learned functions. With basis "none" they are perceptrons, the
    baseline of the U-KAN paper.
    """
    options = {
        "num_blocks": num_blocks,
        "drop_path": drop_path,
        "inner_channels": inner_channels,
        "base_activation": base_activation,
    }
    encoder = ukan_encoder(
        in_channels, conv=conv, plain=plain, stem=stem, width=width, depth=depth, **options
    )
    token = _token(conv, inner_channels, base_activation)
    levels = encoder.out_channels[:0:-1]  # from the deepest up, without the image
    next_levels = [*levels[1:], levels[-1]]
    convs = [conv_stack(plain, [a, a, b]) for a, b in zip(levels, next_levels, strict=True)]
    refiners: list[nn.Module] = []
    for level, channels in zip(range(depth - 1, 0, -1), levels[1:], strict=True):
        if level >= len(CONV_MULTIPLES):
            refiners.append(nn.Sequential(*_tokens(channels, num_blocks, token, drop_path)))
        else:
            refiners.append(nn.Identity())
    decoder = AddingDecoder(convs, refiners, out_channels=levels[-1])
    return SegmentationModel(encoder, decoder, classes=classes, aux_params=aux_params)
