"""One image with its mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from kanseg.data.io.decoded import DecodedImage
from kanseg.data.io.images import MAX_PIXELS, decode_image, image_mode, states_nodata
from kanseg.data.io.rasterize import Annotation

# A file; for a multilabel task, a file or None (the class is absent) per class; annotated objects,
# which are drawn when the mask is read; or None for an image without a mask.
Mask: TypeAlias = "Path | tuple[Path | None, ...] | Annotation | None"


@dataclass(frozen=True)
class Sample:
    """One image with its mask.

    Args:
        name: unique in the data set.
        image: its file.
        mask: see `Mask`; None for an image without a mask.
        max_pixels: images and masks of more pixels are refused.
    """

    name: str
    image: Path
    mask: Mask = None
    max_pixels: int = field(default=MAX_PIXELS, compare=False)

    @property
    def has_mask(self) -> bool:
        """True if there is a mask, in a multilabel task for any class."""
        if isinstance(self.mask, tuple):
            return any(self.mask)
        return self.mask is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the sample is read from, the image first."""
        if isinstance(self.mask, tuple):
            return (self.image, *(path for path in self.mask if path is not None))
        if isinstance(self.mask, Annotation):
            return (self.image, self.mask.source)
        if self.mask is None:
            return (self.image,)
        return (self.image, self.mask)


def read_sample_image(sample: Sample) -> DecodedImage:
    """Read the image of a sample; see `decode_image`."""
    return decode_image(sample.image, max_pixels=sample.max_pixels)


def pixels_without_data(sample: Sample) -> np.ndarray | None:
    """Return (H, W) bool, True where the image of a sample has no data; None if all pixels have.

    Only images whose header defines a nodata value are decoded.
    """
    if not states_nodata(sample.image, max_pixels=sample.max_pixels):
        return None
    return read_sample_image(sample).nodata


def sample_image_mode(sample: Sample) -> tuple[str, tuple[int, int]]:
    """Return (kind, (H, W)) of the image of a sample from its header; see `image_mode`."""
    return image_mode(sample.image, max_pixels=sample.max_pixels)
