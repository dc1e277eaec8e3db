"""The class of encoders of other libraries, with the interface of our encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ExternalEncoder(nn.Module):
    """An encoder of another library: (B, C, H, W) -> depth + 1 features, the image first; any H and
    W from 1 on.

    Feature i has `out_channels[i]` channels and size ceil(H / 2^i) x ceil(W / 2^i); it has 0
    channels if the encoder has no feature of that size (vision transformers start at i = 2). Images
    are padded to multiples of 32 by repeating the right and lower border.

    Args:
        body: image -> features from large to small; the part that has pretrained weights.
        indices: for each i from 1 to depth the index of its feature, or None.
        channels: channels of the features 1 to depth.
        in_channels: C.
        channels_last: True if the features of `body` are (B, H, W, C).
        pyramid: features of `body` -> features from large to small; for tokens (`TokenPyramid`).
        scale: (p, s): the padded image is scaled by p / s before `body`, for patches of p pixels
            that represent s pixels of the image.
        image_size: (height, width) if `body` takes images of one size only: the image is scaled to
            it, and the features to the sizes above.
    """

    begins_with_image = True

    def __init__(
        self,
        body: nn.Module,
        *,
        indices: list[int | None],
        channels: list[int],
        in_channels: int,
        channels_last: bool = False,
        pyramid: nn.Module | None = None,
        scale: tuple[int, int] | None = None,
        image_size: Sequence[int] | None = None,
    ):
        super().__init__()
        self.body = body
        self.pyramid = pyramid
        self.indices = indices
        self.in_channels = in_channels
        self.out_channels = [in_channels, *channels]
        self.channels_last = channels_last
        self.scale = scale
        self.image_size = image_size

    @property
    def depth(self) -> int:
        """Number of halvings."""
        return len(self.indices)

    @property
    def output_stride(self) -> int:
        """Pixels of the image per pixel of the deepest feature."""
        return 2**self.depth

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}"
            )
        height, width = x.shape[-2:]
        outputs = self.body(self._fitting(x))
        if self.channels_last:
            outputs = [output.movedim(-1, 1) for output in outputs]
        if self.pyramid is not None:
            outputs = self.pyramid(outputs)
        features = [x]
        for i, index in enumerate(self.indices, start=1):
            # Rounded up without negative numbers: ONNX divides these towards zero.
            rows, columns = (height + 2**i - 1) // 2**i, (width + 2**i - 1) // 2**i
            if index is None:
                features.append(x.new_zeros(x.shape[0], 0, rows, columns))
            elif self.image_size is not None:
                features.append(_scaled(outputs[index], rows, columns))
            else:
                features.append(_cropped(outputs[index], rows, columns))
        return features

    def _fitting(self, x: Tensor) -> Tensor:
        """The image in a size that `body` takes."""
        if self.image_size is not None:
            return _scaled(x, *self.image_size)
        height, width = x.shape[-2:]
        # 32 at any depth: some encoders apply large kernels to small features.
        right, bottom = -width % 32, -height % 32
        # Also by 0 pixels: a branch on the size would be fixed in an exported graph.
        x = F.pad(x, [0, right, 0, bottom], mode="replicate")
        if self.scale is not None:
            patch, stride = self.scale
            rows, columns = (height + bottom) // stride, (width + right) // stride
            x = _scaled(x, rows * patch, columns * patch)
        return x


def _cropped(x: Tensor, rows: int, columns: int) -> Tensor:
    """The upper left part of a feature."""
    if not torch.compiler.is_compiling():
        return x[..., :rows, :columns]
    # torch.export omits a slice that keeps all of the traced image, for images of all sizes.
    x = x.index_select(-2, torch.arange(rows, device=x.device))
    return x.index_select(-1, torch.arange(columns, device=x.device))


def _scaled(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
