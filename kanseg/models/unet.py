"""U-Net of stacked 3x3 convolutions; torch-conv-kan's UKAGNet when the convolution is a Gram KAN
convolution.
"""

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

# What stands before the convolutions of a decoder's level: (channels, conv=, its options) ->
# module; None for nothing.
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
    """`num_convs` convolutions a level on both sides (Ronneberger et al. 2015, with padding and
    bilinear upsampling).

    `mixer` "attention" (`ConvAttention`) or "focal" (`FocalModulation`) puts one of these before
    the decoder's convolutions of a level; `mixer_options` are theirs. The attention of a level sees
    keys and values averaged to the size of the decoder's lowest level (a 1 / 2^(depth - 1) of the
    image), unless `mixer_options` has another "reduction".

    Another `encoder` takes the place of the contracting path and of all options for it.
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
    finer = count()  # levels above the decoder's lowest, which is built first

    def block(in_channels: int, out_channels: int) -> nn.Sequential:
        before = _mixer(
            mixer, in_channels, conv=conv, reduction=2 ** next(finer), options=mixer_options or {}
        )
        return nn.Sequential(*before, *conv_stack(conv, [in_channels, *[out_channels] * num_convs]))

    decoder = UNetDecoder(
        encoder.out_channels, block=block, widths=widths, align_corners=align_corners
    )
    return SegmentationModel(encoder, decoder, classes=classes, aux_params=aux_params)


def _mixer(
    name: str, channels: int, *, conv: Conv, reduction: int, options: Mapping[str, object]
) -> list[nn.Module]:
    """The mixer of a level as a list of none or one; an option that it does not have is a
    ValueError.
    """
    mixer = MIXERS[name]
    parameters = () if mixer is None else inspect.signature(mixer).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "conv"]
    for key in options:
        if key not in known:
            raise ValueError(
                f"mixer {name!r} has no option {key!r}{nearest(key, known)} (it has:"
                f" {', '.join(known) or 'none'})"
            )
    if mixer is None:
        return []
    defaults = {"reduction": reduction} if "reduction" in known else {}
    return [mixer(channels, conv=conv, **defaults | dict(options))]
