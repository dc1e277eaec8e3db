"""Augment images with masks by transforms of albumentations and torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import numpy as np

from kanseg.data.augmentation.albumentations_transforms import AlbumentationsTransforms
from kanseg.data.augmentation.library import LibraryTransforms, Spec
from kanseg.data.augmentation.torchvision_transforms import (
    PREFIX,
    TorchvisionTransforms,
    has_prefix,
)
from kanseg.data.sampling import foreground_window
from kanseg.utils.errors import InputError

AUTO = "auto"
# The transforms of "auto": in most data sets, images that are mirrored left to right are as likely
# as the others.
FLIPS = ({f"{PREFIX}RandomHorizontalFlip": {"p": 0.5}},)

# Range of a float image, in widths of the middle half of its values; float32 has 7 digits, and
# images need two.
LARGEST_SPAN = 1e5
QUARTILE_PIXELS = 2**12  # pixels of which the quartiles are taken


class Augmentation:
    """Augment an image and its mask; the same seed gives the same result.

    Pixels that a transform fills in are ignored in the mask (255).

    Args:
        transforms: [{name: {option: value}}] or names alone, of albumentations 2.0, or with the
            prefix "torchvision." of `torchvision.transforms.v2`. Each library is imported only if
            one of its transforms is named. "auto" for FLIPS.
        crop: (h, w) of a random crop before the transforms, padded if the image is smaller; None
            for no crop.
        foreground: share of the crops that contain a pixel of a random class
            (`foreground_window`), from 0 to 1.

    Raises:
        InputError: a name or an option that the library does not have, or a value that it refuses;
            a library that is missing; `foreground` without a crop.

    Example:
        >>> augment = Augmentation(["torchvision.RandomHorizontalFlip"], crop=(256, 256))
        >>> image, mask = augment(image, mask, seed=0)
    """

    def __init__(
        self,
        transforms: Sequence[Spec] | Literal["auto"],
        crop: Sequence[int] | None = None,
        foreground: float = 0.0,
    ):
        if not 0 <= foreground <= 1:
            raise InputError(
                "data.oversample_foreground must be a share from 0 to 1, got {foreground}",
                foreground=foreground,
            )
        if foreground and crop is None:
            raise InputError(
                "data.oversample_foreground needs data.crop: [height, width] of the crops"
                " around a class"
            )
        self.crop, self.foreground = crop, foreground
        specs = list(FLIPS if transforms == AUTO else transforms)
        if crop is not None:
            specs.insert(0, _crop_like_the_first(specs, int(crop[0]), int(crop[1])))
        self._steps = _build(specs)
        self.empty = not self._steps

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, seed: int, *, name: str = "image"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image (H, W, C) and its mask (H, W) or (N, H, W) uint8 alike; uint16 images
        become float32 in [0, 1].

        Raises:
            InputError: a transform fails on this image, or returns something else than an image
                of its type; floats with NaN, or with a few values so large that the others would
                be rounded away.
        """
        if self.empty:
            return image, mask
        image, mask = self._around_a_class(image, mask, seed)
        if image.dtype == np.uint16:  # few transforms take 16 bits, nearly all take floats
            image = image.astype(np.float32) / 65535
        if image.dtype != np.float32:
            return self._apply(image, mask, seed, name)
        low, high = float(image.min()), float(image.max())
        if low >= 0 and high <= 1:
            return self._apply(image, mask, seed, name)
        # Brightness transforms expect floats from 0 to 1 and clip other values.
        _check_range(image, low, high, name)
        span = np.float32(max(high - low, 1e-30))
        image, mask = self._apply((image - np.float32(low)) / span, mask, seed, name)
        return image * span + np.float32(low), mask

    def check(self, image: np.ndarray, *, name: str = "image") -> None:
        """Check that all transforms, even rarely applied ones, accept images of this type and
        number of channels.

        Raises:
            InputError: the first transform that accepts RGB images, but not this image.
        """
        values = image
        if image.dtype == np.uint16:
            values = image.astype(np.float32) / 65535
        for step in self._steps:
            transform = step.refusing(values)
            if transform is not None:
                raise InputError(
                    "augmentation {transform} needs RGB images and does not accept {channels}"
                    " channels of {kind}; leave it out, or set data.channels to 3 (or 1)",
                    transform=transform,
                    channels=image.shape[2],
                    kind=values.dtype,
                    where=name,
                )

    def _around_a_class(
        self, image: np.ndarray, mask: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Crop around a class in a share (`foreground`) of the calls. The random crop that follows
        keeps the result, or pads it.
        """
        rng = np.random.default_rng([seed, 1])
        if not self.foreground or rng.random() >= self.foreground:
            return image, mask
        window = foreground_window(mask, (int(self.crop[0]), int(self.crop[1])), rng)
        if window is None:
            return image, mask
        return np.ascontiguousarray(image[window]), np.ascontiguousarray(mask[(..., *window)])

    def _apply(
        self, image: np.ndarray, mask: np.ndarray, seed: int, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the transforms."""
        for number, step in enumerate(self._steps):
            if number:  # two steps of one library must not draw the same numbers
                seed = sample_seed(seed, 0, number)
            image, mask = step(image, mask, seed, name=name)
        return image, mask


def _check_range(image: np.ndarray, low: float, high: float, name: str) -> None:
    """Raise InputError if a float image cannot be scaled to [0, 1]: it has values that are not
    finite, or its smallest or largest value is so far from the others that float32 rounds their
    differences away.
    """
    if not np.isfinite([low, high]).all():
        raise InputError(
            "has NaN or infinite values, which augmentation would spread over the image;"
            " replace them, such as by numpy.nan_to_num",
            where=name,
        )
    pixels = image.reshape(-1, image.shape[2])
    step = -(-len(pixels) // QUARTILE_PIXELS)
    lower, upper = np.percentile(pixels[::step], (25, 75)).tolist()
    span = high - low
    if lower < upper and (span > LARGEST_SPAN * (upper - lower) or span > np.finfo(np.float32).max):
        raise InputError(
            "has values from {low} to {high}, half of which lie between {lower} and {upper}:"
            " augmentation would round away their differences; clip the values, or mark the"
            " extreme ones as without data (GDAL_NODATA)",
            low=f"{low:g}",
            high=f"{high:g}",
            lower=f"{lower:g}",
            upper=f"{upper:g}",
            where=name,
        )


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return a seed from 0 to below 2^32, a hash of (seed, epoch, index)."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])


def _crop_like_the_first(specs: Sequence[Spec], height: int, width: int) -> Spec:
    """Return a random crop of the library of the first transform, so that no other is imported;
    of torchvision if there is none.
    """
    if specs and not has_prefix(specs[0]):
        return {"RandomCrop": {"height": height, "width": width, "pad_if_needed": True}}
    return {f"{PREFIX}RandomCrop": {"size": [height, width], "pad_if_needed": True}}


def _build(specs: Sequence[Spec]) -> list[LibraryTransforms]:
    """Build the transforms, one step for neighbors of the same library."""
    steps: list[LibraryTransforms] = []
    for of_torchvision, group in groupby(specs, key=has_prefix):
        if of_torchvision:
            steps.append(TorchvisionTransforms(list(group), masks=True))
        else:
            steps.append(AlbumentationsTransforms(list(group)))
    return steps
