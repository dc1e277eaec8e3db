"""Augmentation of images without masks: torchvision transforms as data, and mixtures of the
images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kanseg.data.augmentation.library import Spec
from kanseg.data.augmentation.torchvision_transforms import TorchvisionTransforms
from kanseg.data.transforms import AUTO, FLIPS
from kanseg.utils.errors import InputError


def default_transforms(classes: Sequence[str]) -> list[Spec]:
    """Return the transforms of "auto": `FLIPS`; none if all classes have names of one character,
    because mirrored digits and letters are others.
    """
    if all(len(name) == 1 for name in classes):
        return []
    return list(FLIPS)


class ImageAugmentation:
    """Augment an image by torchvision transforms; the same seed gives the same result.

    Args:
        transforms: [{name: {option: value}}] or names alone, of `torchvision.transforms.v2`, with
            or without the prefix "torchvision."; interpolations and policies are given by their
            values ("bilinear", "cifar10"), the `transforms` of RandomApply, RandomChoice and
            RandomOrder as such a list again. "auto" for `FLIPS`.

    Raises:
        InputError: a name or an option that torchvision does not have, or a value that it refuses.
    """

    def __init__(self, transforms: Sequence[Spec] | Literal["auto"]):
        specs = FLIPS if transforms == AUTO else transforms
        self._transforms = None
        if specs:
            self._transforms = TorchvisionTransforms(specs, masks=False)

    def __call__(self, image: np.ndarray, seed: int, *, name: str = "image") -> np.ndarray:
        """Augment an image: (H, W, C) uint8 or uint16 -> (H', W', C) of the same type; uint16
        becomes float32 in [0, 1].

        Raises:
            InputError: a transform fails on this image, or returns something else than an image
                of its type and channels.
        """
        if self._transforms is None:
            return image
        if image.dtype == np.uint16:  # few transforms take 16 bits
            image = image.astype(np.float32) / 65535
        return self._transforms(image, None, seed, name=name)[0]


class Mixer:
    """Mix the images of a batch by MixUp or CutMix; if both are set, one of them at random for each
    batch.

    Each image is mixed with another of its batch in the proportion l : 1 - l, l from Beta(alpha,
    alpha): all pixels (MixUp, https://arxiv.org/abs/1710.09412), or a rectangle (CutMix,
    https://arxiv.org/abs/1905.04899).

    Args:
        mixup, cutmix: alpha; 0 switches it off.
        num_classes: N.
        label_smoothing: share of each target that is spread evenly over all classes.

    Raises:
        InputError: values out of range.
    """

    def __init__(
        self,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        *,
        num_classes: int,
        label_smoothing: float = 0.0,
    ):
        in_range = 0 <= mixup < float("inf") and 0 <= cutmix < float("inf")
        if not in_range or not 0 <= label_smoothing < 1:
            raise InputError(
                "mixup and cutmix must be 0 or more and label_smoothing from 0 to below 1, got"
                " {mixup}, {cutmix} and {label_smoothing}",
                mixup=mixup,
                cutmix=cutmix,
                label_smoothing=label_smoothing,
            )
        self.mixup, self.cutmix = mixup, cutmix
        self.num_classes, self.label_smoothing = num_classes, label_smoothing

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix a batch: (B, C, H, W) floats and (B,) int64 -> (B, C, H, W) and (B, N) float32 whose
        rows sum to 1. The arguments are not modified.
        """
        targets = F.one_hot(labels, self.num_classes).float()
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if not (self.mixup or self.cutmix):
            return images, targets
        rng = np.random.default_rng(seed)  # not torch's: the same on every device
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.mixup
        if use_cutmix:
            alpha = self.cutmix
        share = float(rng.beta(alpha, alpha))
        others = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        if not use_cutmix:
            mixed = images.lerp(images[others], 1 - share)
            return mixed, targets.lerp(targets[others], 1 - share)
        height, width = images.shape[2:]
        top, bottom = _interval(height, np.sqrt(1 - share), rng.random())
        left, right = _interval(width, np.sqrt(1 - share), rng.random())
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[others, :, top:bottom, left:right]
        # the edge of the image may cut the rectangle
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, targets.lerp(targets[others], 1 - share)


def _interval(length: int, share: float, position: float) -> tuple[int, int]:
    """Return (start, end) of a `share` of a line of pixels around a position, clipped to the line.

    Args:
        length: pixels of the line.
        share: of the pixels, 0 to 1.
        position: of the center, 0 to 1.
    """
    center, half = int(position * length), int(share * length / 2)
    return max(0, center - half), min(length, center + half)
