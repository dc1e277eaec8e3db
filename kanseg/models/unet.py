"""U-Net with any convolution; with Gram KAN convolutions it is torch-conv-kan's UKAGNet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import count

from torch import nn

from kanseg.encoders import ENCODERS, Encoder, ExternalEncoder, stacked_encoder
from kanseg.layers.attention import ConvAttention
from kanseg.layers.blocks import Conv, conv_stack
from kanseg.layers.focal import FocalModulation
from kanseg.models.segmentation import MODELS, SegmentationModel, UNetDecoder, decoder_widths
from kanseg.utils.registry import Registry, nearest

# Modules before the convolutions of a decoder level: (channels, conv=, options) -> module, or None.
MIXERS: Registry[Callable[..., nn.Module] | None] = Registry("mixer")
MIXERS.register("conv")(None)
MIXERS.register("attention")(ConvAttention)
MIXERS.register("focal")(FocalModulation)


@ENCODERS.register("unet")
def unet_encoder(
    in_channels: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 16,
    depth: int = 4,
    num_convs: int = 2,
    downsample: str = "pool",
) -> Encoder:
    """U-Net's contracting path: depth + 1 stages of `num_convs` convolutions."""
    return stacked_encoder(
        in_channels,
        conv=conv,
        stem=stem,
        num_convs=num_convs,
        width=width,
        depth=depth,
        downsample=downsample,
    )


@MODELS.register("unet")
def unet(
    in_channels: int,
    classes: int,
    *,
    conv: Conv,
    stem: Conv,
    width: float = 16,
    depth: int = 4,
    num_convs: int = 2,
    downsample: str = "pool",
    encoder: Encoder | ExternalEncoder | None = None,
    align_corners: bool = False,
    mixer: str = "conv",
    mixer_options: Mapping[str, object] | None = None,
    aux_params: dict[str, object] | None = None,
) -> SegmentationModel:
    """U-Net (Ronneberger et al. 2015) with padding and bilinear upsampling, and `num_convs`
    convolutions per level of encoder and decoder.

    `mixer` "attention" (`ConvAttention`) or "focal" (`FocalModulation`) adds such a module, with
    `mixer_options`, before the convolutions of each decoder level. Keys and values of the attention
    are averaged to the size of the lowest decoder level (1 / 2^(depth - 1) of the image), unless
    `mixer_options` has another "reduction".

    Another `encoder` replaces the contracting path and its options.
    """
    if encoder is None:
        encoder = unet_encoder(
            in_channels,
            conv=conv,
            stem=stem,
            width=width,
            depth=depth,
            num_convs=num_convs,
            downsample=downsample,
        )

    widths = decoder_widths(encoder)
    level = count()  # 0 for the lowest level of the decoder, which is built first

    def block(in_channels: int, out_channels: int) -> nn.Sequential:
        reduction = 2 ** next(level)
        mixers = _mixer(
            mixer, in_channels, conv=conv, reduction=reduction, options=mixer_options or {}
        )
        convs = conv_stack(conv, [in_channels, *[out_channels] * num_convs])
        return nn.Sequential(*mixers, *convs)

    decoder = UNetDecoder(
        encoder.out_channels, block=block, widths=widths, align_corners=align_corners
    )
    return SegmentationModel(encoder, decoder, classes=classes, aux_params=aux_params)


def _mixer(
    name: str, channels: int, *, conv: Conv, reduction: int, options: Mapping[str, object]
) -> list[nn.Module]:
    """A list with the mixer of a level, or an empty list.

    Raises:
        ValueError: an option that the mixer does not have.
    """
    mixer = MIXERS[name]
    known = []
    if mixer is not None:
        parameters = inspect.signature(mixer).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "conv"]
    for key in options:
        if key not in known:
            raise ValueError(
                f"mixer {name!r} has no option {key!r}{nearest(key, known)} (it has:"
                f" {', '.join(known) or 'none'})"
            )
    if mixer is None:
        return []
    defaults: dict[str, object] = {}
    if "reduction" in known:
        defaults["reduction"] = reduction
    return [mixer(channels, conv=conv, **defaults | dict(options))]
