"""The formats of labeled images: their registry, and the images that a format finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kanseg.data.classification.sources import ImageSource
from kanseg.utils.registry import Registry


@dataclass(frozen=True)
class FoundImages:
    """The labeled images that a format has found.

    Args:
        classes: their names.
        splits: images by the name of the split in the data set.
        notes: lines for the log about decisions while reading.
        seeded: splits that kanseg has made itself, from a seed.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, ImageSource]
    notes: tuple[str, ...] = ()
    seeded: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageFormat:
    """A format of data sets.

    Args:
        open: (root, download, seed of splits that have to be made) -> the images; raises an
            InputError if they cannot be used.
        matches: (root) -> True if the files in it look like this format.
        fallback: tried only if no other format matches.
        fixed: its sets never grow, so splits can have exact shares.
    """

    open: Callable[[Path, bool, int], FoundImages]
    matches: Callable[[Path], bool]
    fallback: bool = False
    fixed: bool = False


FORMATS: Registry[ImageFormat] = Registry("data format")
