"""The segmentation model: encoder, decoder and heads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kanseg.encoders import Encoder, ExternalEncoder
from kanseg.layers.blocks import Block
from kanseg.layers.nested import resize_like
from kanseg.utils.hub import _Pretrained
from kanseg.utils.registry import Registry, nearest

MODELS: Registry[Callable[..., SegmentationModel]] = Registry("model")


class UNetDecoder(nn.Module):
    """U-Net decoder: feature pyramid -> one feature map of the image's size.

    Each level upsamples bilinearly, concatenates the skip connection and applies a block.

    Args:
        encoder_channels: channels of the pyramid, the full-size feature first.
        block: (in_channels, out_channels) -> module; called once per level.
        bottom: module on the deepest feature, or None.
        widths: channels of the decoder's levels, the full-size one first, and of the deepest
            feature; `encoder_channels` by default.
        align_corners: option of the bilinear upsampling.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        *,
        block: Block,
        bottom: nn.Module | None = None,
        widths: Sequence[int] | None = None,
        align_corners: bool = False,
    ):
        super().__init__()
        self.align_corners = align_corners
        if bottom is None:
            bottom = nn.Identity()
        self.bottom = bottom
        widths = widths or encoder_channels
        levels = zip(widths[-1:0:-1], encoder_channels[-2::-1], widths[-2::-1], strict=True)
        self.blocks = nn.ModuleList(block(below + skip, width) for below, skip, width in levels)
        self.out_channels = widths[0]

    def forward(self, features: list[Tensor]) -> Tensor:
        """[(B, C_i, H_i, W_i)] from large to small -> (B, out_channels, H_0, W_0)."""
        x = self.bottom(features[-1])
        for block, skip in zip(self.blocks, features[-2::-1], strict=True):
            x = resize_like(x, skip, align_corners=self.align_corners)
            x = block(torch.cat([x, skip], dim=1))
        return x


def decoder_widths(encoder: Encoder | ExternalEncoder) -> list[int]:
    """Channels of a decoder's levels: those of the encoder's features.

    If feature 0 is the image itself, or an encoder has no feature of a size, the level gets half of
    the channels of the next deeper one (at least 8).
    """
    widths = list(encoder.out_channels)
    for i in reversed(range(len(widths) - 1)):
        if widths[i] == 0 or (i == 0 and encoder.begins_with_image):
            widths[i] = max(8, widths[i + 1] // 2)
    return widths


OUTPUT_ACTIVATIONS: dict[str | None, Callable[[], nn.Module]] = {
    None: nn.Identity,
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "softmax": partial(nn.Softmax, dim=1),
    "logsoftmax": partial(nn.LogSoftmax, dim=1),
    "tanh": nn.Tanh,
}


class ClassificationHead(nn.Sequential):
    """Global pooling, dropout, linear: (B, C, H, W) -> (B, classes).

    Args:
        in_channels: C.
        classes: number of outputs.
        pooling: "avg" or "max".
        dropout: probability.
        activation: None, a name ("sigmoid", "softmax", "logsoftmax", "tanh", "identity"), or a
            callable that makes a module.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        pooling: str = "avg",
        dropout: float = 0.0,
        activation: str | Callable[[], nn.Module] | None = None,
    ):
        pools = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}
        if pooling not in pools:
            raise ValueError(f"pooling must be 'avg' or 'max', got {pooling!r}")
        last = OUTPUT_ACTIVATIONS.get(activation, activation)
        if not callable(last):
            raise ValueError(
                f"unknown activation {activation!r} (known:"
                f" {', '.join(filter(None, OUTPUT_ACTIVATIONS))}, or a callable)"
            )
        super().__init__(
            pools[pooling](1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(in_channels, classes),
            last(),
        )


class SegmentationModel(nn.Module, _Pretrained):
    """encoder -> decoder -> head: (B, C, H, W) -> raw logits (B, classes, H, W), any H and W.

    Args:
        encoder: image -> list of features, with `out_channels`.
        decoder: list of features -> one feature map of the image's size, with `out_channels`.
        classes: number of logits per pixel.
        head: output of the decoder -> raw logits of the image's size; a 1x1 convolution by default.
        aux_params: keyword arguments of ClassificationHead (at least `classes`), as in
            segmentation_models.pytorch; with them forward returns (masks, labels).
    """

    def __init__(
        self,
        encoder: Encoder | ExternalEncoder,
        decoder: nn.Module,
        *,
        classes: int,
        head: nn.Module | None = None,
        aux_params: dict[str, object] | None = None,
    ):
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        _check_aux_params(aux_params)
        self.encoder = encoder
        self.decoder = decoder
        if head is None:
            head = nn.Conv2d(decoder.out_channels, classes, 1)
        self.segmentation_head = head
        self.classification_head = None
        if aux_params is not None:
            self.classification_head = ClassificationHead(encoder.out_channels[-1], **aux_params)

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor]:
        """(B, C, H, W) -> masks (B, classes, H, W), or (masks, labels (B, aux classes)) with a
        classification head.

        A network with deep supervision returns a list of masks in training, starting with the
        prediction itself.
        """
        features = self.encoder(x)
        masks = self.segmentation_head(self.decoder(features))
        if self.classification_head is None:
            return masks
        return masks, self.classification_head(features[-1])


def _check_aux_params(aux_params: dict[str, object] | None) -> None:
    """Raise ValueError for unknown arguments of ClassificationHead, or without `classes`."""
    if aux_params is None:
        return
    _, _, *known = inspect.signature(
        ClassificationHead.__init__
    ).parameters  # not self, in_channels
    for name in aux_params:
        if name not in known:
            raise ValueError(
                f"aux_params has no {name!r}{nearest(name, known)} (it has: {', '.join(known)})"
            )
    if "classes" not in aux_params:
        raise ValueError("aux_params needs `classes`, the number of labels")
