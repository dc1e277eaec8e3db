"""What is done to a picture before a network sees it: once, here, in training as in prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from kanseg.data.images import to_channels


@dataclass(frozen=True)
class Preprocess:
    """Integers (H, W, C) -> float32 tensor (channels, H', W') of about zero mean and unit variance.

    Args:
        channels: what the network takes.
        mean, std: per channel, of the values in [0, 1] after the gamma.
        gamma: exponent on the values in [0, 1]; 0.5 spreads dark pictures.
        resize: (H', W') that every picture is scaled to, or None for its own size.
        interpolation: "linear", or "area" for the mean over the pixels that fall into one (when it shrinks).
    """

    channels: int = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    gamma: float = 1.0
    resize: tuple[int, int] | None = None
    interpolation: str = "linear"

    def scale(self, image: np.ndarray, *, name: str = "picture") -> np.ndarray:
        """(H, W, C) uint8 or uint16 -> (H, W, channels) of the same type and the size of `resize`."""
        image = to_channels(image, self.channels, name=name)
        return image if self.resize is None else resize_image(image, self.resize, self.interpolation)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) integers, or floats in [0, 1] -> float32 in [0, 1], gamma applied."""
        values = image if image.dtype == np.float32 else image.astype(np.float32) / np.iinfo(image.dtype).max
        return values if self.gamma == 1.0 else np.clip(values, 0, 1) ** self.gamma

    def normalise(self, image: np.ndarray) -> Tensor:
        """(H, W, channels) integers -> (channels, H, W) float32."""
        values = (self.encode(image) - np.float32(self.mean)) / np.float32(self.std)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32))

    def __call__(self, image: np.ndarray, *, name: str = "picture") -> Tensor:
        """(H, W, C) integers -> (channels, H', W') float32."""
        return self.normalise(self.scale(image, name=name))


def resize_image(image: np.ndarray, size: Sequence[int], interpolation: str = "linear") -> np.ndarray:
    """(H, W, C) -> (H', W', C), bilinear, or by area where asked and it shrinks."""
    if tuple(image.shape[:2]) == tuple(size):
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if interpolation == "area" and shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=method).reshape(*size, image.shape[2])


def resize_mask(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(H, W) class indices -> (H', W'), nearest pixel."""
    return mask if tuple(mask.shape) == tuple(size) else cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
