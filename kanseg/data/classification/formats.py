"""The form in which the opener of a format hands over what it found, and the registry of
formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kanseg.data.classification.sources import ImageSource
from kanseg.utils.registry import Registry


@dataclass(frozen=True)
class FoundImages:
    """Class names, the splits under their own names, what was decided on the way, and which splits
    kanseg has dealt itself.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, ImageSource]
    notes: tuple[str, ...] = ()
    dealt: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageFormat:
    """A form of data set.

    Args:
        open: (root, download, seed of a split that has to be made) -> what is there; an InputError
            where it cannot be used.
        lies_in: whether root looks like it.
        fallback: tried only where no other format is found.
        fixed: whether its sets never grow, so that shares can be cut off exactly.
    """

    open: Callable[[Path, bool, int], FoundImages]
    lies_in: Callable[[Path], bool]
    fallback: bool = False
    fixed: bool = False


FORMATS: Registry[ImageFormat] = Registry("data format")
