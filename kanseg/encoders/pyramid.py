"""The encoder class, image -> feature pyramid, and builders of its stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from torch import Tensor, nn

from kanseg.encoders.surgery import dilate_stage, layers_that_read
from kanseg.layers.blocks import Block, Conv, conv_stack, stage
from kanseg.layers.surgery import set_conv_channels
from kanseg.utils.hub import _Pretrained
from kanseg.utils.registry import Registry

ENCODERS: Registry[Callable[..., Encoder]] = Registry("encoder")


class Encoder(nn.Module, _Pretrained):
    """A sequence of stages, of which all but the first halve the image: (B, C, H, W) -> depth + 1
    features.

    Feature i has `out_channels[i]` channels and size ceil(H / r) x ceil(W / r) with r = 2^i, or at
    most `output_stride` after `make_dilated`; any H and W from 1 on. If stage 0 is an Identity,
    feature 0 is the image itself.

    Args:
        stages: depth + 1 modules; stage 0 keeps the size, the others halve it (rounding up).
        in_channels: channels of the image.
        out_channels: channels of each stage's output.
    """

    def __init__(
        self, stages: Sequence[nn.Module], *, in_channels: int, out_channels: Sequence[int]
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.in_channels = in_channels
        self.out_channels = list(out_channels)
        self._dilated_stride: int | None = None  # the output stride of `make_dilated`

    @property
    def depth(self) -> int:
        """Number of halvings."""
        return len(self.stages) - 1

    @property
    def output_stride(self) -> int:
        """Pixels of the image per pixel of the deepest feature."""
        return min(2**self.depth, self._dilated_stride or 2**self.depth)

    @property
    def begins_with_image(self) -> bool:
        """True if feature 0 is the image itself."""
        return isinstance(self.stages[0], nn.Identity)

    def set_in_channels(self, in_channels: int, *, pretrained: bool = True) -> None:
        """Change the number of image channels and adapt the learned weights, as
        `KANConv2d.set_in_channels` does.

        The layers that read the image are found by a forward pass. With pretrained=False their
        weights are initialized again.
        """
        if in_channels == self.in_channels:
            return
        readers = layers_that_read(self.stages, self.in_channels)
        if not readers:
            raise ValueError(
                "no convolution of this encoder reads the image: its number of channels cannot be"
                " changed"
            )
        for layer in readers:
            if isinstance(layer, nn.Conv2d):
                set_conv_channels(layer, self.in_channels, in_channels)
            else:
                layer.set_in_channels(in_channels)
            if not pretrained:
                layer.reset_parameters()
        if self.begins_with_image:
            self.out_channels[0] = in_channels
        self.in_channels = in_channels
        if self.description is not None:
            self.description["encoder"] |= {"in_channels": in_channels}

    def make_dilated(self, output_stride: int) -> None:
        """Limit the output stride to 8 or 16 by dilation instead of further halving.

        A strided convolution gets stride 1, and all convolutions after it twice the dilation (Chen
        et al. 2017, arXiv:1706.05587): every second pixel of the new feature is the old feature. A
        pool at the start of a stage is removed, which changes the values.

        Raises:
            ValueError: another stride, an encoder that is dilated already, or a stage without a
                pool or a strided convolution.
        """
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
        if self._dilated_stride not in (None, output_stride):
            raise ValueError(
                f"the encoder already has output stride {self._dilated_stride}: create a new one"
                f" for {output_stride}"
            )
        if self._dilated_stride is None:
            for i in range(output_stride.bit_length(), self.depth + 1):
                dilate_stage(self.stages[i], rate=2 ** (i - 1) // output_stride)
        self.changed = f"make_dilated({output_stride})"
        self._dilated_stride = output_stride

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, out_channels[i], ceil(H / 2^i), ceil(W / 2^i)) for i in
        0..depth].
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}"
            )
        features = []
        for module in self.stages:
            x = module(x)
            features.append(x)
        return features


def check_size(width: float, depth: int, *, deepest: int = 6) -> None:
    """Raise ValueError unless width >= 1 and 1 <= depth <= deepest."""
    if not 1 <= width < inf or not 1 <= depth <= deepest:
        raise ValueError(
            f"width must be at least 1 and depth (halvings of the image) 1 to {deepest}, got"
            f" width={width}, depth={depth}"
        )


def scaled(width: float, multiple: float) -> int:
    """Number of channels, round(width * multiple), at least 1."""
    return max(1, round(width * multiple))


def residual_encoder(
    in_channels: int,
    *,
    stem: Conv,
    block: Block,
    num_blocks: Sequence[int],
    width: float,
    depth: int,
    expansion: int,
) -> Encoder:
    """A 3x3 stem, then depth + 1 stages of residual blocks with round(width * 2^i * expansion)
    channels (torch-conv-kan's UKANet).

    `num_blocks` is the number of blocks per stage; its last entry is used for further stages.
    """
    check_size(width, depth)
    counts = [num_blocks[min(i, len(num_blocks) - 1)] for i in range(depth + 1)]
    channels = [scaled(width, 2**i * expansion) for i in range(depth + 1)]
    first = nn.Sequential(
        stem(in_channels, scaled(width, 1), 3, padding=1),
        *stage(block, scaled(width, 1), channels[0], counts[0]),
    )
    stages = [first]
    for i in range(1, depth + 1):
        stages.append(stage(block, channels[i - 1], channels[i], counts[i], stride=2))
    return Encoder(stages, in_channels=in_channels, out_channels=channels)


def stacked_encoder(
    in_channels: int,
    *,
    conv: Conv,
    stem: Conv,
    num_convs: int,
    width: float,
    depth: int,
    downsample: str,
) -> Encoder:
    """Stages of `num_convs` 3x3 convolutions with round(width * 2^i) channels (U-Net; UKAGNet with
    downsample="stride").

    `downsample`: "pool" for a 2x2 max pool before each stage, "stride" for stride 2 in its first
    convolution.
    """
    check_size(width, depth)
    if num_convs < 1:
        raise ValueError(f"num_convs must be at least 1, got {num_convs}")
    if downsample not in ("pool", "stride"):
        raise ValueError(f"downsample must be 'pool' or 'stride', got {downsample!r}")
    channels = [scaled(width, 2**i) for i in range(depth + 1)]
    first = nn.Sequential(
        stem(in_channels, channels[0], 3, padding=1), *conv_stack(conv, channels[:1] * num_convs)
    )
    stages = [first]
    for i in range(1, depth + 1):
        widths = [channels[i - 1], *[channels[i]] * num_convs]
        if downsample == "stride":
            stages.append(conv_stack(conv, widths, stride=2))
        else:
            # ceil_mode allows odd sizes and images of one pixel.
            pool = nn.MaxPool2d(2, ceil_mode=True)
            stages.append(nn.Sequential(pool, *conv_stack(conv, widths)))
    return Encoder(stages, in_channels=in_channels, out_channels=channels)
