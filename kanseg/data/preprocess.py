"""Preprocess images for a network: channels, size, gamma, normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor

from kanseg.data.io.decoded import DecodedImage, as_decoded
from kanseg.data.io.images import to_channels
from kanseg.utils.errors import InputError


@dataclass(frozen=True)
class Preprocess:
    """Convert an image (H, W, C) to the input of a network: a float32 tensor (channels, H', W')
    with about zero mean and unit variance.

    Args:
        channels: of the network.
        mean, std: per channel, of the values in [0, 1] after the gamma.
        gamma: exponent on the values in [0, 1]; 0.5 brightens dark images.
        resize: (H', W') of every image, or None to keep its size.
        interpolation: "linear", or "area" to average the pixels when an image is made smaller.
        floats: True for images of floats, which are used as they are; integers are scaled to
            [0, 1].
    """

    channels: int = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    gamma: float = 1.0
    resize: tuple[int, int] | None = None
    interpolation: str = "linear"
    floats: bool = False

    def fit(self, image: np.ndarray | DecodedImage, *, name: str = "image") -> np.ndarray:
        """Convert an image to the channels of the network: (H, W, C) uint8, uint16 or float32 ->
        (H, W, channels) of the same type.

        Pixels without data become the mean of the training images, which is normalized to 0.

        Raises:
            InputError: channels that the network does not accept; floats instead of integers or
                the reverse; floats outside [0, 1] with a gamma.
        """
        if (image.dtype == np.float32) != self.floats:
            expected = "floats" if self.floats else "integers"
            raise InputError(
                "the image holds {kind} values, but the training images hold {expected};"
                " convert it",
                kind=image.dtype,
                expected=expected,
                where=name,
            )
        decoded = as_decoded(image)
        image = to_channels(decoded.values, self.channels, name=name, alpha=decoded.alpha)
        # An exported network contains the normalization, and its mean is unknown here: pixels
        # without data keep the mean of their image.
        normalizes = (self.mean, self.std) != ((0.0,), (1.0,))
        if normalizes and decoded.nodata is not None and decoded.nodata.any():
            image = image.copy()
            image[decoded.nodata] = self._mean_as_stored(image.dtype)
        if self.gamma != 1.0 and image.dtype == np.float32 and (image.min() < 0 or image.max() > 1):
            raise InputError(
                "holds values from {low} to {high}, and data.gamma needs values from 0 to 1;"
                " leave the gamma out",
                low=f"{image.min():g}",
                high=f"{image.max():g}",
                where=name,
            )
        return image

    def _mean_as_stored(self, dtype: np.dtype) -> np.ndarray:
        """Return the values (channels,) of an image that are normalized to 0; integers rounded."""
        values = np.broadcast_to(np.asarray(self.mean, dtype=np.float64), (self.channels,))
        if self.gamma != 1.0:
            values = np.clip(values, 0, 1) ** (1 / self.gamma)
        if dtype.kind == "u":
            values = np.round(values * np.iinfo(dtype).max)
        return values

    def scale(self, image: np.ndarray | DecodedImage, *, name: str = "image") -> np.ndarray:
        """Convert an image to the channels and the size of the network: (H, W, C) uint8, uint16 or
        float32 -> (H', W', channels) of the same type; raises the errors of `fit`.
        """
        image = self.fit(image, name=name)
        if self.resize is None:
            return image
        return resize_image(image, self.resize, self.interpolation)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Convert (H, W, C) to float32: scale integers to [0, 1], then apply the gamma."""
        values = image
        if image.dtype != np.float32:
            values = image.astype(np.float32) / np.iinfo(image.dtype).max
        if self.gamma != 1.0:
            values = np.clip(values, 0, 1) ** self.gamma
        return values

    def normalize(self, image: np.ndarray) -> Tensor:
        """Normalize an image: (H, W, channels) integers or floats -> (channels, H, W) float32."""
        if image.dtype == np.uint8:
            return self.normalize_bytes(
                torch.from_numpy(np.require(image, requirements=["C", "W"]))
            )
        values = (self.encode(image) - np.float32(self.mean)) / np.float32(self.std)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32))

    def normalize_bytes(self, images: Tensor) -> Tensor:
        """Normalize a batch: (..., H, W, channels) uint8 -> (..., channels, H, W) float32 on the
        same device, with the same values as `normalize`.
        """
        # A lookup table of the 256 values is several times faster than the formula.
        if images.device.type == "cpu":
            return lookup_by_opencv(images, self._table)
        return lookup(images, torch.from_numpy(self._table).to(images.device, non_blocking=True))

    @cached_property
    def _table(self) -> np.ndarray:
        """(channels, 256) float32: the normalized value of each byte."""
        values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], self.channels, axis=2)
        return ((self.encode(values) - np.float32(self.mean)) / np.float32(self.std))[:, 0].T.copy()

    def __call__(self, image: np.ndarray | DecodedImage, *, name: str = "image") -> Tensor:
        """Preprocess an image: (H, W, C) -> (channels, H', W') float32."""
        return self.normalize(self.scale(image, name=name))


def lookup_by_opencv(images: Tensor, table: np.ndarray) -> Tensor:
    """Look up uint8 values with OpenCV: (..., H, W, C) and table (C, 256) -> (..., C, H, W)."""
    *batch, height, width, channels = images.shape
    result = torch.empty(*batch, channels, height, width)
    inputs = images.reshape(-1, height, width, channels).numpy()
    outputs = result.view(-1, channels, height, width).numpy()
    for image, planes in zip(inputs, outputs, strict=True):
        for channel, plane in enumerate(cv2.split(image)):
            cv2.LUT(plane, table[channel][None], dst=planes[channel])
    return result


def lookup(images: Tensor, table: Tensor) -> Tensor:
    """Look up uint8 values on any device: (..., H, W, C) and table (C, 256) -> (..., C, H, W)."""
    channels = torch.arange(len(table), device=images.device)[:, None, None]
    return table[channels, images.movedim(-1, -3).long()]


def resize_image(
    image: np.ndarray, size: Sequence[int], interpolation: str = "linear"
) -> np.ndarray:
    """Resize (H, W, C) to (H', W', C): bilinear, or by "area" if it becomes smaller."""
    if tuple(image.shape[:2]) == tuple(size):
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_LINEAR
    if interpolation == "area" and shrinks:
        method = cv2.INTER_AREA
    resized = cv2.resize(image, (size[1], size[0]), interpolation=method)
    return resized.reshape(*size, image.shape[2])  # OpenCV drops a single channel


def resize_mask(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize class indices (H, W) or (N, H, W) to (H', W') by the nearest pixel."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    if mask.ndim == 3:
        return np.stack([resize_mask(layer, size) for layer in mask])
    return cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
