"""The meaning of the values in mask files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kanseg.data.io.colors import Color, default_palette, pack_rgb
from kanseg.data.io.tiff import LARGEST_LABEL, SMALLEST_LABEL
from kanseg.data.names import shorten
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.registry import nearest

IGNORE_INDEX = 255  # in a loaded mask: the pixel is left out of loss and metrics
NO_CLASS = 254  # table entry of values that are not a class; also a class index if there are 255
TASKS = ("binary", "multiclass", "multilabel")
CLASS_COUNTS = {  # minimum and maximum
    "binary": (2, 2),
    "multiclass": (2, IGNORE_INDEX),
    "multilabel": (1, IGNORE_INDEX),
}


# Names of a first class that is what is left when all objects are taken away.
BACKGROUND_NAMES = ("background", "bg", "back", "none", "class_0", "背景")


def foreground_classes(classes: Sequence[str], task: str) -> list[int]:
    """Return the indices of the classes that are objects: all but a background.

    The first class of a binary task is the background; that of a multiclass task is, if its name
    says so (`BACKGROUND_NAMES`); a multilabel task has none.
    """
    has_background = task == "binary" or (
        task == "multiclass" and classes[0].strip().lower() in BACKGROUND_NAMES
    )
    return list(range(int(has_background), len(classes)))


@dataclass(frozen=True)
class LabelSpec:
    """The meaning of the values in mask files.

    Args:
        task: "binary" (background and one class, one logit), "multiclass", or "multilabel" (each
            class is present or absent, independently of the others).
        classes: names, index 0 first; a multilabel task has no background class.
        mask_values: value in the file -> class index (or `ignore_index`); None if the files hold
            indices. If it maps values only to `ignore_index`, all other values are indices. In a
            multilabel task, which has one file per class: value -> 1 (present), 0 (absent) or 255
            (ignored); None if every value except 0 means present.
        ignore_index: the index, 0 to 255, that is left out of loss and metrics; None for none.
        palette: an RGB color per class, needed to read color masks and used for drawing. The entry
            at `ignore_index`, if any, is the color of ignored pixels.

    Raises:
        InputError: entries of the wrong kind or out of range.
    """

    task: str
    classes: tuple[str, ...]
    mask_values: Mapping[int, int] | None = None
    ignore_index: int | None = IGNORE_INDEX
    palette: tuple[Color, ...] | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(
                "task {task!r} is not one of {known}{hint}",
                task=self.task,
                known=", ".join(TASKS),
                hint=nearest(self.task, TASKS),
            )
        self._check_classes()
        if self.ignore_index is not None and not is_byte(self.ignore_index):
            raise InputError(
                "ignore_index must be an integer from 0 to 255 or null, got {ignore_index!r}",
                ignore_index=self.ignore_index,
            )
        self._check_mask_values()
        if self.palette is not None and len(self.palette) < len(self.classes):
            raise InputError(
                "the palette has {colors} colors for {count} classes",
                colors=len(self.palette),
                count=len(self.classes),
            )

    def _check_classes(self) -> None:
        """Check number and names of the classes."""
        fewest, most = CLASS_COUNTS[self.task]
        if not fewest <= len(self.classes) <= most:
            needed = {
                "binary": translate("two classes (including the background)"),
                "multiclass": translate(
                    "two to {ignored} classes (including the background)", ignored=IGNORE_INDEX
                ),
                "multilabel": translate("one to {ignored} classes", ignored=IGNORE_INDEX),
            }
            raise InputError(
                "a {task} task needs {needed}, got {classes}",
                task=self.task,
                needed=needed[self.task],
                classes=shorten(self.classes),
            )
        if len(set(self.classes)) < len(self.classes):
            raise InputError(
                "classes must have different names, got {classes}", classes=list(self.classes)
            )
        for name in self.classes:
            if not name.isprintable():
                raise InputError(
                    "class name {name!r:.60} has characters that cannot be printed", name=name
                )

    def _check_mask_values(self) -> None:
        """Check the ranges of the values in files and of their class indices."""
        meanings = dict(enumerate(self.classes))
        if self.task == "multilabel":
            meanings = {0: "absent", 1: "present"}
        for ignored in (self.ignore_index, IGNORE_INDEX):
            if ignored is not None:
                meanings.setdefault(ignored, "ignored")
        for value, index in (self.mask_values or {}).items():
            if SMALLEST_LABEL <= value <= LARGEST_LABEL and index in meanings:
                continue
            allowed = shorten([f"{number} ({name})" for number, name in meanings.items()])
            raise InputError(
                "mask_values: {{{value}: {index}}} is not allowed; it maps a value of the files"
                " ({smallest_label} to {largest}) to an index, one of {allowed}",
                value=value,
                index=index,
                smallest_label=SMALLEST_LABEL,
                largest=LARGEST_LABEL,
                allowed=allowed,
            )

    @cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Two lookup tables, uint8, indexed by the value in a file.

        The first table gives the class index (255 for ignored values, `NO_CLASS` for values that
        are not a class); the second gives 1 for values that are not a class and 0 for others. The
        last entry applies to all larger values too, unless it is that of 65535, the largest value.
        Negative values are not covered.
        """
        pairs = {value: index for value, index in self.index_of_value.items() if value >= 0}
        size = min(max([*pairs, 255]) + 2, LARGEST_LABEL + 1)
        classes = np.full(size, NO_CLASS, dtype=np.uint8)
        unknown = np.ones(size, dtype=np.uint8)
        for value, index in pairs.items():
            classes[value] = index
            unknown[value] = 0
        return classes, unknown

    @property
    def holds_indices(self) -> bool:
        """True if the values in files are class indices (multilabel: all except 0 mean present),
        apart from values that mask_values marks as ignored.
        """
        return set((self.mask_values or {}).values()) <= {self.ignore_index, IGNORE_INDEX}

    @property
    def expected_values(self) -> str:
        """The values that a mask may contain, as text for messages."""
        named = set(self.mask_values or {})
        if not self.holds_indices:
            return ", ".join(map(str, sorted(named)))
        if self.ignore_index is not None:
            named.add(self.ignore_index)
        indices = f"0..{len(self.classes) - 1}"
        if not named:
            return indices
        ignored = ", ".join(map(str, sorted(named)))
        return translate("{indices} or {ignored} (ignored)", indices=indices, ignored=ignored)

    @cached_property
    def index_of_value(self) -> dict[int, int]:
        """Value in a mask file -> class index; `IGNORE_INDEX` for ignored values."""
        pairs: dict[int, int] = {}
        if self.holds_indices:
            pairs = {index: index for index in range(len(self.classes))}
            if self.ignore_index is not None:
                pairs[self.ignore_index] = IGNORE_INDEX
        for value, index in (self.mask_values or {}).items():
            if index == self.ignore_index:
                index = IGNORE_INDEX
            pairs[value] = index
        return pairs

    @cached_property
    def index_of_color(self) -> dict[int, int]:
        """Packed color (`pack_rgb`) -> class index, `IGNORE_INDEX` for the color of ignored pixels;
        empty without a palette.
        """
        found = {}
        for index, color in enumerate(self.palette or ()):
            if index == self.ignore_index:
                found[int(pack_rgb(color))] = IGNORE_INDEX
            elif index < len(self.classes):
                found[int(pack_rgb(color))] = index
        return found

    @property
    def num_logits(self) -> int:
        """Output channels of a network for this task: 1 for binary, else one per class."""
        if self.task == "binary":
            return 1
        return len(self.classes)

    @property
    def colors(self) -> list[Color]:
        """An RGB color per class: from the palette if there is one, else `default_palette`."""
        if self.palette:
            return list(self.palette[: len(self.classes)])
        if self.task == "multilabel":  # black is the background, which this task does not have
            return default_palette(len(self.classes) + 1)[1:]
        return default_palette(len(self.classes))


def is_byte(value: object) -> bool:
    """True for an integer (not a bool) from 0 to 255."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def compare_classes(trained: Sequence[str], found: Sequence[str], *, where: object) -> str | None:
    """Return a warning if the classes of a data set have other names than those of a network; None
    if the names are equal.

    Args:
        trained: classes of the network.
        found: the same number of classes of a data set.
        where: the data set, for messages.

    Raises:
        InputError: the same name has another index.
    """
    trained, found = list(trained), list(found)
    for index, name in enumerate(found):
        if name in trained and trained[index] != name:
            raise InputError(
                "its classes ({found}) are in another order than those of the training"
                " ({trained}): {name!r} is {index} here and was {trained_index}; put classes"
                " and masks into the order of the training",
                found=shorten(found),
                trained=shorten(trained),
                name=name,
                index=found.index(name),
                trained_index=trained.index(name),
                where=where,
            )
    renamed = []
    for old, new in zip(trained, found, strict=True):
        if old != new:
            renamed.append(translate("{old} is {new} here", old=old, new=new))
    if not renamed:
        return None
    return translate(
        "warning: classes have other names than those of the training: {renamed}",
        renamed=shorten(renamed),
    )
