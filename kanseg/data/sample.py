"""One image and what is known of its classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from kanseg.data.io.decoded import DecodedImage
from kanseg.data.io.images import MAX_PIXELS, decode_image, image_mode, states_nodata
from kanseg.data.io.rasterize import Annotation

# None: no mask. A file; of a multilabel task a file or None (the class is absent) for each class;
# or shapes that are drawn when needed.
Mask: TypeAlias = "Path | tuple[Path | None, ...] | Annotation | None"


@dataclass(frozen=True)
class Sample:
    """One image and its mask (None for an image without one); an image of more than
    `max_pixels` is refused.
    """

    name: str
    image: Path
    mask: Mask = None
    max_pixels: int = field(default=MAX_PIXELS, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the sample is read from, the image first."""
        masks = self.mask if isinstance(self.mask, tuple) else (self.mask,)
        paths = [mask.source if isinstance(mask, Annotation) else mask for mask in masks]
        return (self.image, *(path for path in paths if path is not None))


def read_sample_image(sample: Sample) -> DecodedImage:
    """The image of a sample, as of `decode_image`, within its limit of pixels."""
    return decode_image(sample.image, max_pixels=sample.max_pixels)


def pixels_without_data(sample: Sample) -> np.ndarray | None:
    """(H, W) bool: where the image of a sample has no data; None where it has all. Images that
    do not name a number for that are not decoded.
    """
    if not states_nodata(sample.image, max_pixels=sample.max_pixels):
        return None
    return read_sample_image(sample).nodata


def sample_image_mode(sample: Sample) -> tuple[str, tuple[int, int]]:
    """(kind, (H, W)) of the image from its header, as of `image_mode`."""
    return image_mode(sample.image, max_pixels=sample.max_pixels)
