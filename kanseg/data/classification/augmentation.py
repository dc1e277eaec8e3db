"""Augmentation of images without masks: torchvision transforms as data, and mixtures of the
images of a batch.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

Spec = Mapping[str, Mapping[str, object] | None] | str
REFUSED = {
    "MixUp": "it mixes batches, not images: use the setting mixup",
    "CutMix": "it mixes batches, not images: use the setting cutmix",
    "Normalize": "images are normalized once, by data.mean and data.std",
    "Compose": "the list is one already",
    "Lambda": "a function cannot be given as data",
    "Transform": "it is the base of the others",
}
CONTAINERS = ("RandomApply", "RandomChoice", "RandomOrder")


class ImageAugmentation:
    """(image, seed) -> image: the same seed gives the same result, whatever came before.

    Args:
        transforms: [{name: {option: value}}] or names alone, of `torchvision.transforms.v2`;
            interpolations and policies are given by their values ("bilinear", "cifar10"), the
            `transforms` of RandomApply, RandomChoice and RandomOrder as such a list again.

    Raises:
        InputError: a name or an option that torchvision does not have, or a value that it refuses.
    """

    def __init__(self, transforms: Sequence[Spec]):
        self._transforms = [_build(spec) for spec in transforms]

    def __call__(self, image: np.ndarray, seed: int, *, name: str = "image") -> np.ndarray:
        """(H, W, C) uint8 or uint16 -> (H', W', C) of its type; a uint16 image comes back as
        float32 in [0, 1].

        Raises:
            InputError: a transform fails on this image, or returns something else than an image
                of its type and channels.
        """
        if not self._transforms:
            return image
        from torchvision.tv_tensors import Image

        if image.dtype == np.uint16:  # hardly a transform takes 16 bits
            image = image.astype(np.float32) / 65535
        changed = Image(torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")))
        # Every random number of these transforms is from torch's generator of the CPU;
        # torch.manual_seed would seed the GPUs' too.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            try:
                for transform in self._transforms:
                    changed = transform(changed)
            # torchvision raises whatever comes; the sample and the list are what a user can mend
            except Exception as error:
                why = " ".join(str(error).split())[:300]  # some messages show all pixels
                raise InputError(
                    f"{name}: augmentation failed on a {image.shape[1]}x{image.shape[0]} image:"
                    f" {type(transform).__name__}: {why}"
                ) from error
        if (
            not isinstance(changed, Tensor)
            or changed.ndim != 3
            or len(changed) != image.shape[2]
            or changed.numpy().dtype != image.dtype
        ):
            made = (
                f"{changed.dtype} {tuple(changed.shape)}"
                if isinstance(changed, Tensor)
                else type(changed).__name__
            )
            expected = f"{image.dtype} ({image.shape[2]}, H, W)"
            raise InputError(
                f"{name}: augmentation made {made} of an image, expected {expected}; leave out"
                " ToDtype, ToPILImage, FiveCrop and the like"
            )
        return np.ascontiguousarray(changed.numpy().transpose(1, 2, 0))


def _build(spec: Spec):
    """One transform from its name and options."""
    from torchvision.transforms import v2

    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise InputError(f"an augmentation is `Name` or `Name: {{option: value}}`, got {spec!r}")
    name, options = next(iter(spec.items()))
    if name in REFUSED:
        raise InputError(f"augmentation {name}: {REFUSED[name]}")
    known = [
        n
        for n, kind in vars(v2).items()
        if inspect.isclass(kind) and issubclass(kind, v2.Transform) and n not in REFUSED
    ]
    if name not in known:
        raise InputError(f"torchvision has no transform {name!r}{nearest(name, known)}")
    if not isinstance(options or {}, Mapping):
        raise InputError(f"augmentation {name}: options are `{{option: value}}`, got {options!r}")
    kind = getattr(v2, name)
    allowed = [
        p
        for p in inspect.signature(kind.__init__).parameters
        if p not in ("self", "args", "kwargs")
    ]
    for option in options or {}:
        if option not in allowed:
            has = f"it has: {', '.join(allowed)}" if allowed else "it has none"
            raise InputError(
                f"augmentation {name} has no option {option!r}{nearest(str(option), allowed)}"
                f" ({has})"
            )
    values = {option: _value(name, option, value) for option, value in (options or {}).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return kind(**values)
        except Exception as error:  # a value of a wrong type fails in whatever way it does
            raise InputError(f"augmentation {name}: " + " ".join(str(error).split())) from None


def _value(name: str, option: str, value: object) -> object:
    """Texts of enumerations as their members, inner lists of transforms as transforms."""
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
    """(images, labels, seed) -> (images, targets): MixUp, CutMix, or either by a coin where
    both are asked for; one mixture a batch.

    Each image is mixed with another of its batch in the proportion l : 1 - l, l from Beta(alpha,
    alpha): all of it (MixUp, https://arxiv.org/abs/1710.09412), or in a rectangle (CutMix,
    https://arxiv.org/abs/1905.04899).

    Args:
        mixup, cutmix: alpha; 0 for none of it.
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
        if not (
            0 <= mixup < float("inf") and 0 <= cutmix < float("inf") and 0 <= label_smoothing < 1
        ):
            raise InputError(
                "mixup and cutmix must be 0 or more and label_smoothing from 0 to below 1, got"
                f" {mixup}, {cutmix} and {label_smoothing}"
            )
        self.mixup, self.cutmix, self.num_classes, self.label_smoothing = (
            mixup,
            cutmix,
            num_classes,
            label_smoothing,
        )

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) floats and (B,) int64 -> (B, C, H, W) and (B, N) float32, rows of which sum
        to 1; what is given is not changed.
        """
        targets = F.one_hot(labels, self.num_classes).float()
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if not (self.mixup or self.cutmix):
            return images, targets
        random = np.random.default_rng(seed)  # not torch's: the same on every device
        cutting = self.cutmix > 0 and (self.mixup == 0 or random.random() < 0.5)
        share = float(random.beta(*[self.cutmix if cutting else self.mixup] * 2))
        others = torch.from_numpy(random.permutation(len(images))).to(images.device)
        if cutting:
            (top, bottom), (left, right) = (
                _interval(n, np.sqrt(1 - share), random.random()) for n in images.shape[2:]
            )
            mixed = images.clone()
            mixed[:, :, top:bottom, left:right] = images[others, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (
                images.shape[2] * images.shape[3]
            )  # what is left after the border has cut it
        else:
            mixed = images.lerp(images[others], 1 - share)
        return mixed, targets.lerp(targets[others], 1 - share)


def _interval(length: int, share: float, place: float) -> tuple[int, int]:
    """A piece of `share` of a line of pixels around a point, cut off at the ends."""
    center, half = int(place * length), int(share * length / 2)
    return max(0, center - half), min(length, center + half)
