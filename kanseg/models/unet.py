"""U-Net of stacked 3x3 convolutions; torch-conv-kan's UKAGNet when the convolution is a Gram KAN convolution."""

from __future__ import annotations

from torch import nn

from kanseg.encoders import ENCODERS, Encoder, ForeignEncoder, stacked_encoder
from kanseg.layers.blocks import Conv, conv_stack
from kanseg.models.segmentation import MODELS, SegmentationModel, UNetDecoder, decoder_widths


@ENCODERS.register("unet")
def unet_encoder(in_channels: int, *, conv: Conv, stem: Conv, width: int = 16, depth: int = 4, num_convs: int = 2, downsample: str = "pool") -> Encoder:
    """U-Net's contracting path: depth + 1 stages of `num_convs` convolutions."""
    return stacked_encoder(in_channels, conv=conv, stem=stem, num_convs=num_convs, width=width, depth=depth, downsample=downsample)


@MODELS.register("unet")
def unet(
    in_channels: int,
    classes: int,
    *,
    conv: Conv,
    stem: Conv,
    width: int = 16,
    depth: int = 4,
    num_convs: int = 2,
    downsample: str = "pool",
    encoder: Encoder | ForeignEncoder | None = None,
    aux_params: dict[str, object] | None = None,
) -> SegmentationModel:
    """`num_convs` convolutions a level on both sides (Ronneberger et al. 2015, with padding and bilinear upsampling).

    Another `encoder` takes the place of the contracting path and of all options for it.
    """
    if encoder is None:
        encoder = unet_encoder(in_channels, conv=conv, stem=stem, width=width, depth=depth, num_convs=num_convs, downsample=downsample)

    def block(in_channels: int, out_channels: int) -> nn.Sequential:
        return conv_stack(conv, [in_channels, *[out_channels] * num_convs])

    decoder = UNetDecoder(encoder.out_channels, block=block, widths=decoder_widths(encoder))
    return SegmentationModel(encoder, decoder, classes=classes, aux_params=aux_params)
