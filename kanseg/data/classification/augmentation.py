"""Augmentation of images without masks: torchvision transforms as data, and mixtures of the
images of a batch.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kanseg.data.transforms import AUTO, parse_transform
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest
from kanseg.utils.text import one_line

Spec = Mapping[str, Mapping[str, object] | None] | str
REFUSED = {
    "MixUp": "it mixes batches, not images: use the setting mixup",
    "CutMix": "it mixes batches, not images: use the setting cutmix",
    "Normalize": "images are normalized once, by data.mean and data.std",
    "Compose": "the list is composed already",
    "Lambda": "a function cannot be written in a config",
    "Transform": "it is the base class of the others",
}
CONTAINERS = ("RandomApply", "RandomChoice", "RandomOrder")


FLIPS = ({"RandomHorizontalFlip": {"p": 0.5}},)


def default_transforms(classes: Sequence[str]) -> list[Spec]:
    """What "auto" stands for: `FLIPS`; nothing if all classes have names of one character, because
    mirrored digits and letters are others.
    """
    if all(len(name) == 1 for name in classes):
        return []
    return list(FLIPS)


class ImageAugmentation:
    """Augment an image by torchvision transforms; the same seed gives the same result.

    Args:
        transforms: [{name: {option: value}}] or names alone, of `torchvision.transforms.v2`;
            interpolations and policies are given by their values ("bilinear", "cifar10"), the
            `transforms` of RandomApply, RandomChoice and RandomOrder as such a list again. "auto"
            for `FLIPS`.

    Raises:
        InputError: a name or an option that torchvision does not have, or a value that it refuses.
    """

    def __init__(self, transforms: Sequence[Spec] | Literal["auto"]):
        specs = FLIPS if transforms == AUTO else transforms
        self._transforms = [_build(spec) for spec in specs]

    def __call__(self, image: np.ndarray, seed: int, *, name: str = "image") -> np.ndarray:
        """Augment an image: (H, W, C) uint8 or uint16 -> (H', W', C) of the same type; uint16
        becomes float32 in [0, 1].

        Raises:
            InputError: a transform fails on this image, or returns something else than an image
                of its type and channels.
        """
        if not self._transforms:
            return image
        from torchvision.tv_tensors import Image

        if image.dtype == np.uint16:  # few transforms take 16 bits
            image = image.astype(np.float32) / 65535
        changed = Image(torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")))
        # These transforms use torch's CPU generator; torch.manual_seed would seed the GPUs too.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            try:
                for transform in self._transforms:
                    changed = transform(changed)
            # torchvision raises exceptions of any kind; the user can fix the sample or the list
            except Exception as error:
                raise InputError(
                    f"{name}: augmentation failed on an image of {image.shape[0]}x{image.shape[1]}"
                    f" pixels (height x width): {type(transform).__name__}: {one_line(error)}"
                ) from error
        made, channels = type(changed).__name__, image.shape[2]
        is_image = False
        if isinstance(changed, Tensor):
            made = f"{changed.dtype} {tuple(changed.shape)}"
            is_image = changed.ndim == 3 and len(changed) == channels
            is_image = is_image and changed.numpy().dtype == image.dtype
        if not is_image:
            raise InputError(
                f"{name}: augmentation turned an image into {made}, expected {image.dtype}"
                f" ({channels}, H, W); leave out ToDtype, ToPILImage, FiveCrop and the like"
            )
        return np.ascontiguousarray(changed.numpy().transpose(1, 2, 0))


def _build(spec: Spec):
    """Build a torchvision transform from its name and options."""
    from torchvision.transforms import v2

    name = next(iter(spec), None) if isinstance(spec, Mapping) else spec
    if isinstance(name, str) and name in REFUSED:
        raise InputError(f"augmentation {name}: {REFUSED[name]}")
    known = {}
    for name, kind in vars(v2).items():
        if inspect.isclass(kind) and issubclass(kind, v2.Transform) and name not in REFUSED:
            known[name] = kind
    transform, options = parse_transform(spec, known, "torchvision")
    name = transform.__name__
    values = {option: _value(name, option, value) for option, value in options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return transform(**values)
        except Exception as error:  # values of a wrong type fail in many ways
            raise InputError(f"augmentation {name}: {one_line(error, None)}") from None


def _value(name: str, option: str, value: object) -> object:
    """Convert the value of an option: the name of an enumeration member to the member, an inner
    list of transforms to transforms.
    """
    from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

    if option == "transforms" and name in CONTAINERS:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise InputError(
                f"augmentation {name}: transforms must be a list of transforms, got {value!r}"
            )
        return [_build(spec) for spec in value]
    kinds = {"interpolation": InterpolationMode, "policy": AutoAugmentPolicy}
    if option not in kinds:
        return value
    members = {member.value: member for member in kinds[option]}
    if str(value).lower() not in members:
        raise InputError(
            f"augmentation {name}: {option} {value!r} is not one of"
            f" {', '.join(members)}{nearest(str(value), members)}"
        )
    return members[str(value).lower()]


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
                f" {mixup}, {cutmix} and {label_smoothing}"
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
