"""The registry of formats of labeled images, and what a format returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kanseg.data.classification.sources import ImageSource
from kanseg.utils.registry import Registry


@dataclass(frozen=True)
class FoundImages:
    """A set of labeled images as it was found.

    Args:
        classes: their names.
        splits: images by the name that the set has for a split.
        notes: what was decided while reading.
        dealt: splits that kanseg has made itself.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, ImageSource]
    notes: tuple[str, ...] = ()
    dealt: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageFormat:
    """A format of data sets.

    Args:
        open: (root, download, seed of splits that have to be made) -> the images; raises an
            InputError where they cannot be used.
        lies_in: True if a root looks like this format.
        fallback: tried only where no other format fits.
        fixed: its sets never grow, so that splits can have exact shares.
    """

    open: Callable[[Path, bool, int], FoundImages]
    lies_in: Callable[[Path], bool]
    fallback: bool = False
    fixed: bool = False


FORMATS: Registry[ImageFormat] = Registry("data format")
