"""Our encoders as backbones of torchvision's detectors and segmentation networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from kanseg.encoders import Encoder
from kanseg.models import create_encoder

try:
    from torchvision.ops.feature_pyramid_network import (
        ExtraFPNBlock,
        FeaturePyramidNetwork,
        LastLevelMaxPool,
    )
except ModuleNotFoundError as error:
    raise ImportError(
        "kanseg.integrations.torchvision needs torchvision: python -m pip install torchvision"
    ) from error


class DetectionBackbone(nn.Module):
    """Encoder and feature pyramid network (Lin et al. 2017, arXiv:1612.03144): (B, C, H, W) ->
    {"0": ..., "1": ..., "pool": ...}, each with `out_channels` channels.

    Args:
        encoder: image -> pyramid.
        levels: indices of the encoder's features, in rising order; feature i has stride 2^i.
        out_channels: channels of the outputs.
        extra_blocks: module for further, smaller outputs; None for "pool", every second pixel of
            the deepest one.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        levels: Sequence[int],
        out_channels: int,
        extra_blocks: ExtraFPNBlock | None = None,
    ):
        super().__init__()
        first = int(encoder.begins_with_image)
        if (
            not levels
            or list(levels) != sorted(set(levels))
            or not first <= levels[0] <= levels[-1] <= encoder.depth
        ):
            raise ValueError(
                f"levels must be rising numbers from {first} to {encoder.depth}, got {list(levels)}"
            )
        self.encoder = encoder
        self.levels = list(levels)
        self.out_channels = out_channels
        channels = [encoder.out_channels[i] for i in levels]
        if extra_blocks is None:
            extra_blocks = LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra_blocks)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        features = self.encoder(x)
        return self.fpn(OrderedDict((str(n), features[i]) for n, i in enumerate(self.levels)))


class SegmentationBackbone(nn.Module):
    """Encoder with torchvision's interface: (B, C, H, W) -> {"out": the deepest feature, "aux": the
    one before}, with `out_channels` and `aux_channels` channels.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.aux_channels, self.out_channels = encoder.out_channels[-2:]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        *_, aux, out = self.encoder(x)
        return OrderedDict(out=out, aux=aux)


def detection_backbone(
    name: str,
    in_channels: int = 3,
    *,
    depth: int = 5,
    levels: Sequence[int] | None = None,
    out_channels: int = 256,
    extra_blocks: ExtraFPNBlock | None = None,
    **options: object,
) -> DetectionBackbone:
    """A backbone for `torchvision.models.detection.FasterRCNN`, `MaskRCNN` or `RetinaNet`, by the
    encoder's name.

    Args:
        name: one of `kanseg.list_encoders()`.
        in_channels: channels of the image; if not 3, the detector needs image_mean and image_std
            of that length.
        depth: number of halvings.
        levels: features for the pyramid network; by default the last four (strides 4 to 32 at depth
            5), which together with the pool match the anchor sizes of the detectors.
        out_channels, extra_blocks: as in `DetectionBackbone`.
        options: options of `kanseg.create_encoder`.

    Raises:
        ValueError: an unknown name or option, or levels that the encoder does not have.
    """
    encoder = create_encoder(name, in_channels, depth=depth, **options)
    if levels is None:
        levels = range(max(1, depth - 3), depth + 1)
    return DetectionBackbone(
        encoder, levels=levels, out_channels=out_channels, extra_blocks=extra_blocks
    )


def segmentation_backbone(
    name: str, in_channels: int = 3, *, depth: int = 5, output_stride: int = 8, **options: object
) -> SegmentationBackbone:
    """A backbone for `torchvision.models.segmentation`'s FCN and DeepLabV3, by the encoder's name.

    `output_stride` 8 or 16 dilates the encoder (`Encoder.make_dilated`), 32 does not. The other
    arguments are those of `kanseg.create_encoder`.
    """
    encoder = create_encoder(name, in_channels, depth=depth, **options)
    if output_stride != 32:
        encoder.make_dilated(output_stride)
    return SegmentationBackbone(encoder)
