"""Transforms of torchvision (`torchvision.transforms.v2`)."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kanseg.data.augmentation.library import (
    LibraryTransforms,
    Spec,
    name_and_options,
    option_names,
    parse_transform,
)
from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest
from kanseg.utils.text import one_line

PREFIX = "torchvision."
REFUSED = {
    "MixUp": "it mixes batches, not images: use the setting mixup of a classification",
    "CutMix": "it mixes batches, not images: use the setting cutmix of a classification",
    "Normalize": "images are normalized once, by data.mean and data.std",
    "Compose": "the list is composed already",
    "Lambda": "a function cannot be written in a config",
    "Transform": "it is the base class of the others",
    "FiveCrop": "it makes several images of one",
    "TenCrop": "it makes several images of one",
    "ToPureTensor": "the transforms after it would not know image and mask apart",
}
MOVES_THE_IMAGE = "it moves an image without its mask; it is for classification"
REFUSED_WITH_MASKS = {
    "AutoAugment": MOVES_THE_IMAGE,
    "RandAugment": MOVES_THE_IMAGE,
    "TrivialAugmentWide": MOVES_THE_IMAGE,
    "AugMix": MOVES_THE_IMAGE,
    "CenterCrop": "it fills what a smaller image lacks with class 0; take RandomCrop or data.crop",
}
CONTAINERS = ("RandomApply", "RandomChoice", "RandomOrder")


class TorchvisionTransforms(LibraryTransforms):
    """Transforms of torchvision, applied in order; the same seed gives the same result.

    Masks are never interpolated, and pixels that a transform fills in are ignored in them (255).

    Args:
        specs: names, with or without the prefix "torchvision.", and options; interpolations and
            policies are given by their values ("bilinear", "cifar10"), the `transforms` of
            RandomApply, RandomChoice and RandomOrder as such a list again.
        masks: True if the images have masks.

    Raises:
        InputError: a name or an option that torchvision does not have, or a value that it refuses;
            a transform that moves an image without its mask.
    """

    not_images = "ToDtype, ToPILImage"

    def __init__(self, specs: Sequence[Spec], *, masks: bool):
        self._transforms = [_build(spec, masks) for spec in specs]

    def _apply(
        self, image: np.ndarray, mask: np.ndarray | None, seed: int
    ) -> tuple[object, object]:
        from torchvision import tv_tensors

        # Views, since transposing the bytes takes longer than a flip; of copies, since a transform
        # may work in place.
        changed = [tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))]
        if mask is not None:
            label = mask.reshape(-1, *mask.shape[-2:]).copy()
            changed.append(tv_tensors.Mask(torch.from_numpy(label)))
        # These transforms use torch's CPU generator; torch.manual_seed would seed the GPUs too.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            for transform in self._transforms:
                changed = _transformed(transform, changed)
        pixels, label = changed[0], None
        if isinstance(pixels, tv_tensors.Image):
            pixels = np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0))
        if mask is not None:
            label = changed[1]
            if isinstance(label, tv_tensors.Mask):
                label = label.numpy().reshape(*mask.shape[:-2], *label.shape[-2:])
        return pixels, label

    def _single(self) -> Iterator[tuple[str, TorchvisionTransforms]]:
        for transform in _leaves(self._transforms):
            always = copy.deepcopy(transform)
            if hasattr(always, "p"):
                always.p = 1.0
            alone = copy.copy(self)
            alone._transforms = [always]
            yield type(transform).__name__, alone


def has_prefix(spec: Spec) -> bool:
    """Return True if the settings name a transform of torchvision: `torchvision.Name`."""
    return str(name_and_options(spec)[0]).startswith(PREFIX)


def known_transforms() -> dict[str, type]:
    """Return name -> class of the transforms that augment an image."""
    from torchvision.transforms import v2

    known = {}
    for name, kind in vars(v2).items():
        if inspect.isclass(kind) and issubclass(kind, v2.Transform) and name not in REFUSED:
            known[name] = kind
    return known


def _transformed(transform: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """Apply a transform to an image, or to an image and its mask."""
    with warnings.catch_warnings():
        # RandomErasing warns that it leaves masks as they are, which is what we expect of it.
        warnings.filterwarnings("ignore", message=".*passing through inputs", category=UserWarning)
        try:
            result = transform(*inputs)
        except Exception as error:  # of any kind; the caller turns it into an InputError
            raise RuntimeError(f"{type(transform).__name__}: {one_line(error, None)}") from error
    return result if len(inputs) > 1 else (result,)


def _leaves(transforms: Iterable[Any]) -> Iterator[Any]:
    """Yield the transforms, those inside of containers too."""
    for transform in transforms:
        if type(transform).__name__ in CONTAINERS:
            yield from _leaves(transform.transforms)
        else:
            yield transform


def _build(spec: Spec, masks: bool) -> Any:
    """Build a transform from its name and options."""
    from torchvision import tv_tensors

    name, options = name_and_options(spec)
    if isinstance(name, str):
        name = name.removeprefix(PREFIX)
        if name in REFUSED:
            raise InputError("augmentation {name}: {refused}", name=name, refused=REFUSED[name])
        if masks and name in REFUSED_WITH_MASKS:
            raise InputError(
                "augmentation {name}: {refused}", name=name, refused=REFUSED_WITH_MASKS[name]
            )
    transform, options = parse_transform({name: options}, known_transforms(), "torchvision")
    values = {}
    for option, value in options.items():
        values[option] = _value(name, option, value, masks)
    if masks and "fill" in option_names(transform):
        values["fill"] = {tv_tensors.Mask: IGNORE_INDEX, "others": values.get("fill", 0)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return transform(**values)
        except Exception as error:  # values of a wrong type fail in many ways
            raise InputError(
                "augmentation {name}: {reason}", name=name, reason=one_line(error, None)
            ) from None


def _value(name: str, option: str, value: object, masks: bool) -> object:
    """Convert the value of an option: the name of an enumeration member to the member, an inner
    list of transforms to transforms.
    """
    from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

    if option == "transforms" and name in CONTAINERS:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise InputError(
                "augmentation {name}: transforms must be a list of transforms, got {value!r}",
                name=name,
                value=value,
            )
        return [_build(spec, masks) for spec in value]
    kinds: Mapping[str, Any] = {"interpolation": InterpolationMode, "policy": AutoAugmentPolicy}
    if option not in kinds:
        return value
    members = {member.value: member for member in kinds[option]}
    if str(value).lower() not in members:
        raise InputError(
            "augmentation {name}: {option} {value!r} is not one of {members}{hint}",
            name=name,
            option=option,
            value=value,
            members=", ".join(members),
            hint=nearest(str(value), members),
        )
    return members[str(value).lower()]
