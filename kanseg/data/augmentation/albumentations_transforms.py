"""Transforms of albumentations 2.0 (the MIT line, which is no longer maintained)."""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import os
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from kanseg.data.augmentation.library import (
    LibraryTransforms,
    Spec,
    name_and_options,
    option_names,
    parse_transform,
)
from kanseg.data.augmentation.torchvision_transforms import PREFIX, known_transforms
from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.utils.errors import InputError
from kanseg.utils.text import one_line

# Transforms that scale. By default they would shift the mask by up to half a pixel of the result;
# with exact nearest neighbors pixel centers stay in place.
RESIZING = (
    "Resize",
    "RandomScale",
    "RandomResizedCrop",
    "RandomSizedCrop",
    "LongestMaxSize",
    "SmallestMaxSize",
)
REQUIREMENT = "albumentations>=2.0.8,<2.1"


class AlbumentationsTransforms(LibraryTransforms):
    """Transforms of albumentations, applied in order; the same seed gives the same result.

    Args:
        specs: names and options.

    Raises:
        InputError: a name or an option that albumentations does not have, or a value that it
            refuses; albumentations is missing.
    """

    not_images = "ToTensorV2, Normalize"

    def __init__(self, specs: Sequence[Spec]):
        library = import_albumentations(name_and_options(specs[0])[0])
        self._compose = library.Compose([_build(library, spec) for spec in specs])

    def _apply(
        self, image: np.ndarray, mask: np.ndarray | None, seed: int
    ) -> tuple[object, object]:
        self._compose.set_random_seed(seed)
        given = mask
        if mask.ndim == 3:  # albumentations has the classes of a multilabel mask last
            given = np.ascontiguousarray(mask.transpose(1, 2, 0))
        result = self._compose(image=image, mask=given)
        changed, label = result["image"], result["mask"]
        if mask.ndim == 3:
            label = label.reshape(*label.shape[:2], len(mask)).transpose(2, 0, 1)
        if isinstance(changed, np.ndarray) and changed.ndim == 2:  # a lost axis of one channel
            changed = changed[:, :, None]
        return changed, label

    def _single(self) -> Iterator[tuple[str, AlbumentationsTransforms]]:
        for transform in self._compose.transforms:
            always = copy.deepcopy(transform)
            always.p = 1.0
            alone = copy.copy(self)
            alone._compose = type(self._compose)([always])
            yield type(transform).__name__, alone


def import_albumentations(name: object) -> ModuleType:
    """Import albumentations, without its version check over the network.

    Args:
        name: of a transform that needs it, for messages.

    Raises:
        InputError: it is missing, or replaced by AlbumentationsX, which has another license.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        importlib.metadata.version("albumentationsx")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        raise InputError(
            "albumentationsx (another license, the same import name) is installed; run `pip"
            ' uninstall albumentationsx` and `pip install "{requirement}"`',
            requirement=REQUIREMENT,
        )
    try:
        import albumentations
    except ImportError as error:
        raise InputError(
            "augmentation {name}: albumentations cannot be imported ({reason}): python -m pip"
            ' install "{requirement}", or take a transform of torchvision, such as'
            " torchvision.RandomHorizontalFlip",
            name=name,
            reason=one_line(error),
            requirement=REQUIREMENT,
        ) from None
    return albumentations


def _build(library: ModuleType, spec: Spec) -> Any:
    """Build a transform from its name and options."""
    abstract = (
        library.BasicTransform,
        library.ImageOnlyTransform,
        library.DualTransform,
        library.Transform3D,
    )
    known = {}
    for name, kind in vars(library).items():
        is_transform = inspect.isclass(kind) and issubclass(kind, library.BasicTransform)
        if is_transform and kind not in abstract:
            known[name] = kind
    name = name_and_options(spec)[0]
    if name not in known and name in known_transforms():
        raise InputError(
            "albumentations has no transform {name!r}, but torchvision has: write {prefix}{name}",
            name=name,
            prefix=PREFIX,
        )
    transform, options = parse_transform(spec, known, "albumentations")
    if transform.__name__ in RESIZING:
        options.setdefault("mask_interpolation", cv2.INTER_NEAREST_EXACT)
    if "fill_mask" in option_names(transform):
        options.setdefault("fill_mask", IGNORE_INDEX)
    for option, value in options.items():
        if isinstance(value, list):
            options[option] = tuple(value)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return transform(**options)
        except (ValueError, TypeError, UserWarning) as error:
            raise InputError(
                "augmentation {name}: {reason}",
                name=transform.__name__,
                reason=one_line(error, None),
            ) from None
