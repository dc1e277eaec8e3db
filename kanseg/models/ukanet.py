"""UKANet: torch-conv-kan's residual encoder-decoder, with any convolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from kanseg.encoders import ENCODERS, Encoder, ExternalEncoder, residual_encoder
from kanseg.layers.blocks import BasicBlock, BottleneckBlock, Conv, stage
from kanseg.models.segmentation import MODELS, SegmentationModel, UNetDecoder, decoder_widths

VARIANTS: dict[str, tuple[type[nn.Module], Sequence[int]]] = {
    "ukanet_18": (BasicBlock, (2, 2, 2, 2)),
    "ukanet_34": (BasicBlock, (3, 4, 6, 3)),
    "ukanet_50": (BottleneckBlock, (3, 4, 6, 3)),
}


def ukanet_encoder(
    block: type[nn.Module],
    num_blocks: Sequence[int],
    in_channels: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 16,
    depth: int = 3,
) -> Encoder:
    """UKANet's encoder: a stem and depth + 1 residual stages."""
    return residual_encoder(
        in_channels,
        stem=stem,
        block=partial(block, conv=conv),
        num_blocks=num_blocks,
        width=width,
        depth=depth,
        expansion=block.expansion,
    )


def ukanet(
    block: type[nn.Module],
    num_blocks: Sequence[int],
    in_channels: int,
    classes: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 16,
    depth: int = 3,
    encoder: Encoder | ExternalEncoder | None = None,
    align_corners: bool = False,
    aux_params: dict[str, object] | None = None,
) -> SegmentationModel:
    """UKANet: a residual stage on the deepest feature, and in each decoder level a 3x3 convolution
    and a residual stage.

    Another `encoder` replaces UKANet's own encoder and its options.
    """
    if encoder is None:
        encoder = ukanet_encoder(
            block, num_blocks, in_channels, conv=conv, stem=stem, width=width, depth=depth
        )
    residual = partial(block, conv=conv)
    counts = [num_blocks[min(i, len(num_blocks) - 1)] for i in range(encoder.depth + 1)]
    channels = decoder_widths(encoder)

    def merge(in_channels: int, out_channels: int) -> nn.Sequential:
        blocks = stage(residual, out_channels, out_channels, counts[channels.index(out_channels)])
        return nn.Sequential(conv(in_channels, out_channels, 3, padding=1), *blocks)

    bottom = stage(residual, channels[-1], channels[-1], counts[-1])
    decoder = UNetDecoder(
        encoder.out_channels,
        block=merge,
        bottom=bottom,
        widths=channels,
        align_corners=align_corners,
    )
    return SegmentationModel(encoder, decoder, classes=classes, aux_params=aux_params)


for _name, (_block, _num_blocks) in VARIANTS.items():
    MODELS.register(_name)(partial(ukanet, _block, _num_blocks))
    ENCODERS.register(_name)(partial(ukanet_encoder, _block, _num_blocks))
