"""What the values of the masks mean: given by the user, or read off the masks and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kanseg.data.io.images import MAX_PIXELS, read_mask_values
from kanseg.data.io.tiff import LARGEST_LABEL, SMALLEST_LABEL
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_yaml
from kanseg.utils.registry import nearest

IGNORE_INDEX = 255  # in a loaded label map: the pixel counts for nothing
SUSPECT = 254  # what values without a class are looked up as; of 255 classes the last one
TASKS = ("binary", "multiclass", "multilabel")
CLASSES = {
    "binary": (2, 2),
    "multiclass": (2, IGNORE_INDEX),
    "multilabel": (1, IGNORE_INDEX),
}  # fewest and most
Color = tuple[int, int, int]
# How the values of masks are read; the check of a data set, which knows them already, puts itself
# in its place.
MASK_READER: ContextVar[Callable[..., np.ndarray]] = ContextVar(
    "mask_reader", default=read_mask_values
)
IGNORE_INDEX_COLOR: Color = (128, 128, 128)
# Each is as far as can be from those before it, from the gray of ignored pixels and from the
# colors of errors, in the eyes of people with deuteranopia and protanopia too (greedy, smallest
# distance in CIELAB after the simulation of Machado et al., 2009).
DISTINCT: tuple[Color, ...] = (
    (0, 0, 0),
    (64, 196, 255),
    (255, 213, 64),
    (120, 255, 195),
    (105, 45, 120),
    (0, 0, 255),
    (210, 240, 135),
    (0, 195, 195),
    (120, 0, 165),
    (180, 0, 75),
    (255, 75, 0),
    (120, 180, 120),
    (90, 150, 255),
    (90, 75, 0),
    (120, 120, 180),
    (165, 255, 255),
    (0, 45, 210),
    (210, 165, 75),
    (255, 105, 165),
    (135, 90, 195),
    (150, 45, 105),
)


@dataclass(frozen=True)
class LabelSpec:
    """What the values of the masks mean.

    Args:
        task: "binary" (background and one class, one logit), "multiclass", or "multilabel" (each
            class there or not, whatever the others).
        classes: names, index 0 first; of a multilabel task without a background.
        mask_values: value in the file -> class index (or `ignore_index`); None when the files hold
            indices. Where it names ignored values alone, the others are indices. Of a multilabel
            task, which has a file a class: value -> 1 (there), 0 (not there) or 255
            (ignored); None when all but 0 mean there.
        ignore_index: the index, 0 to 255, that is left out of loss and metrics; None for none.
        palette: an RGB color per class; needed to read color masks, and used to draw. An entry at
            `ignore_index` is the void color.

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
                f"task {self.task!r} is not one of {', '.join(TASKS)}{nearest(self.task, TASKS)}"
            )
        fewest, most = CLASSES[self.task]
        if not fewest <= len(self.classes) <= most:
            needed = {"binary": "two classes", "multiclass": f"two to {IGNORE_INDEX} classes"}.get(
                self.task, f"one to {IGNORE_INDEX} classes"
            )
            background = "" if self.task == "multilabel" else " (the background is one)"
            raise InputError(
                f"a {self.task} task needs {needed}{background}, got {_few(self.classes)}"
            )
        if len(self.classes) > IGNORE_INDEX or len(set(self.classes)) < len(self.classes):
            raise InputError(
                f"classes must be at most {IGNORE_INDEX} different names, got {list(self.classes)}"
            )
        for name in self.classes:
            if not name.isprintable():
                raise InputError(f"class name {name!r:.60} has characters that cannot be printed")
        if self.ignore_index is not None and not (
            _is_integer(self.ignore_index) and 0 <= self.ignore_index <= 255
        ):
            raise InputError(
                f"ignore_index must be an integer from 0 to 255 or null, got {self.ignore_index!r}"
            )
        for value, index in (self.mask_values or {}).items():
            last = 1 if self.task == "multilabel" else len(self.classes) - 1
            if not SMALLEST_LABEL <= value <= LARGEST_LABEL or not (
                0 <= index <= last or index in (self.ignore_index, IGNORE_INDEX)
            ):
                known = f"a class index 0 to {last}"
                if self.task == "multilabel":
                    known = "0 (absent), 1 (present)"
                raise InputError(
                    f"mask_values must map a value {SMALLEST_LABEL} to {LARGEST_LABEL} to {known}"
                    f" or {IGNORE_INDEX} (ignored),"
                    f" got {value}: {index}"
                )
        if self.palette is not None and len(self.palette) < len(self.classes):
            raise InputError(
                f"the palette has {len(self.palette)} colors for {len(self.classes)} classes"
            )

    @cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Two of uint8 by the value in a file: its class index (255 ignored, `SUSPECT` where it has
        none), and 1 for a value that has none.

        Values beyond their end have none, as the last entry says, unless it is of 65535, the
        largest that there is. Negative values are not in them.
        """
        pairs = {value: index for value, index in self.index_of_value.items() if value >= 0}
        classes, unknown = (
            np.full(min(max([*pairs, 255]) + 2, 65536), fill, dtype=np.uint8)
            for fill in (SUSPECT, 1)
        )
        for value, index in pairs.items():
            classes[value] = index
            unknown[value] = 0
        return classes, unknown

    @property
    def holds_indices(self) -> bool:
        """Whether the values in the files are class indices (multilabel: all but 0 mean there), but
        for those that mask_values names as ignored.
        """
        return set((self.mask_values or {}).values()) <= {self.ignore_index, IGNORE_INDEX}

    @property
    def expected_values(self) -> str:
        """The values that a mask may hold, in words."""
        named = sorted(self.mask_values or {})
        if not self.holds_indices:
            return ", ".join(map(str, named))
        ignored = [] if self.ignore_index is None else [self.ignore_index]
        ignored = sorted({*ignored, *named})
        indices = f"0..{len(self.classes) - 1}"
        return indices + (f" or {', '.join(map(str, ignored))} (ignored)" if ignored else "")

    @cached_property
    def index_of_value(self) -> dict[int, int]:
        """Value in a mask file -> class index, `IGNORE_INDEX` for ignored ones."""
        ignored = {self.ignore_index, IGNORE_INDEX}
        pairs = dict(self.mask_values or {})
        if self.holds_indices:
            itself = [*range(len(self.classes)), self.ignore_index]
            pairs = {index: index for index in itself if index is not None} | pairs
        return {
            value: IGNORE_INDEX if index in ignored else index for value, index in pairs.items()
        }

    @cached_property
    def index_of_color(self) -> dict[int, int]:
        """Color, as red * 65536 + green * 256 + blue, -> class index; `IGNORE_INDEX` for the void
        color. Empty without a palette.
        """
        used = {
            index: color
            for index, color in enumerate(self.palette or ())
            if index < len(self.classes) or index == self.ignore_index
        }
        return {
            red << 16 | green << 8 | blue: IGNORE_INDEX if index == self.ignore_index else index
            for index, (red, green, blue) in used.items()
        }

    @property
    def num_logits(self) -> int:
        """Channels that a network for this task puts out: 1 for binary, else one a class."""
        return 1 if self.task == "binary" else len(self.classes)

    @property
    def colors(self) -> list[Color]:
        """An RGB color per class: the palette, or one of our own."""
        if self.palette:
            return list(self.palette[: len(self.classes)])
        # Black is the background, which a multilabel task does not have.
        return (
            default_palette(len(self.classes) + 1)[1:]
            if self.task == "multilabel"
            else default_palette(len(self.classes))
        )


def given_labels(root: Path, overrides: Mapping[str, object]) -> dict[str, Any]:
    """The entries of `root/dataset.yaml`, replaced by the overrides that are not None, as
    `LabelSpec` takes them.

    Raises:
        InputError: entries that are unknown or of the wrong kind.
    """
    return _typed(
        root,
        dataset_yaml(root) | {key: value for key, value in overrides.items() if value is not None},
    )


def label_spec(
    root: Path,
    given: Mapping[str, Any],
    masks: Sequence[Path],
    notes: list[str],
    *,
    max_pixels: int = MAX_PIXELS,
) -> LabelSpec:
    """What was given (`given_labels`), completed from masks of a value a pixel; what was decided
    goes into notes.

    Raises:
        InputError: entries that do not fit together, or masks that do not tell.
    """
    given = dict(given)
    if "task" not in given and "classes" in given:
        given["task"] = "binary" if len(given["classes"]) == 2 else "multiclass"
    if (
        "classes" not in given
        and given.get("task") == "binary"
        and set(given.get("mask_values", ())) - _ignored_values(given)
    ):
        given["classes"] = ("background", "foreground")
    if "classes" in given and ("mask_values" in given or "palette" in given):
        return LabelSpec(**given)
    found = _values(masks, max_pixels)
    ignored = _ignored_values(given)
    found = {value: path for value, path in found.items() if value not in ignored}
    if not found and "classes" in given:
        return LabelSpec(**given)
    if not found:
        raise InputError(
            f"{root}: no mask tells what the classes are; give task and classes in dataset.yaml"
        )
    guess = _guess(root, given, found, notes)
    if "mask_values" in guess:
        given["mask_values"] = guess["mask_values"] | given.get("mask_values", {})
    return LabelSpec(**(guess | given))


def _ignored_values(given: Mapping[str, Any]) -> set[int]:
    """The values that mask_values names as ignored, where it names nothing else."""
    pairs = given.get("mask_values") or {}
    if set(pairs.values()) <= {IGNORE_INDEX, given.get("ignore_index", IGNORE_INDEX)}:
        return set(pairs)
    return set()


def dataset_yaml(root: Path) -> dict[str, Any]:
    """The entries of `root/dataset.yaml`; none where there is no such file."""
    path = root / "dataset.yaml"
    if not path.is_file():
        return {}
    content = read_yaml(path) or {}
    known = [f.name for f in fields(LabelSpec)]
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `key: value` lines ({', '.join(known)})")
    for key in content:
        if key not in known:
            raise InputError(
                f"{path}: unknown key {key!r}{nearest(str(key), known)} (known: {', '.join(known)})"
            )
    return content


def default_palette(classes: int) -> list[Color]:
    """Black, twenty colors that color-blind people can tell apart too, then the colors of PASCAL
    VOC without the gray of ignored pixels.
    """
    return [
        color
        for color in dict.fromkeys([*DISTINCT, *voc_palette(512)])
        if color != IGNORE_INDEX_COLOR
    ][:classes]


def voc_palette(count: int = 256) -> list[Color]:
    """The colors of PASCAL VOC: the bits of the index, the lowest first, dealt out to red, green
    and blue from the highest bit down; 255 is void.
    """
    return [
        tuple(
            sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3))
            for channel in range(3)
        )
        for index in range(count)
    ]


def _typed(root: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The entries as LabelSpec takes them."""
    result = dict(given)
    classes, values, palette = (given.get(key) for key in ("classes", "mask_values", "palette"))
    if classes is not None:
        if not isinstance(classes, (list, tuple)) or not all(
            isinstance(name, str) or _is_integer(name) for name in classes
        ):
            raise InputError(f"{root}: classes must be a list of names, got {classes!r}")
        result["classes"] = tuple(str(name) for name in classes)
    if values is not None:
        if not isinstance(values, Mapping) or not all(
            _is_integer(n) for pair in values.items() for n in pair
        ):
            raise InputError(
                f"{root}: mask_values must be a map of integers such as {{0: 0, 255: 1}}, got"
                f" {values!r}"
            )
        result["mask_values"] = {int(value): int(index) for value, index in values.items()}
    if palette == "voc":
        result["palette"] = tuple(voc_palette())
    elif palette is not None:
        if not isinstance(palette, (list, tuple)) or not all(_is_color(color) for color in palette):
            raise InputError(
                f"{root}: palette must be a list of [red, green, blue] from 0 to 255, or voc, got"
                f" {palette!r}"
            )
        result["palette"] = tuple(tuple(int(v) for v in color) for color in palette)
    return {
        key: value for key, value in result.items() if value is not None or key == "ignore_index"
    }


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_color(color: object) -> bool:
    return (
        isinstance(color, (list, tuple))
        and len(color) == 3
        and all(_is_integer(v) and 0 <= v <= 255 for v in color)
    )


def _values(masks: Sequence[Path], max_pixels: int) -> dict[int, Path]:
    """Every value of the readable masks, and the first file that holds it."""
    found: dict[int, Path] = {}
    for path in masks:
        try:
            array = MASK_READER.get()(path, max_pixels=max_pixels)
        except InputError:
            continue  # the check of all files names it
        if array.ndim == 3:
            raise InputError(
                f"{path}: a color mask needs `classes` and `palette` in dataset.yaml (or"
                " data.classes and data.palette)"
            )
        for value in np.unique(array).tolist():
            found.setdefault(value, path)
    return found


def _guess(
    root: Path, given: Mapping[str, Any], found: Mapping[int, Path], notes: list[str]
) -> dict[str, Any]:
    """task, classes and mask_values for the values found; values that leave a doubt are an
    InputError.
    """
    names = {"task": "binary", "classes": given.get("classes", ("background", "foreground"))}
    if set(found) <= {0, 255} and IGNORE_INDEX in found:
        if given.get("ignore_index") == IGNORE_INDEX:
            raise InputError(
                f"{root}: masks hold only 0 and 255, and 255 is said to be ignored; give"
                " mask_values, such as {0: 0, 255: 1}"
            )
        if len(names["classes"]) != 2:
            raise InputError(
                f"{root}: masks hold only 0 and 255, but the classes are"
                f" {', '.join(names['classes'])}; give mask_values, or two classes"
            )
        notes.append(f"masks hold 0 and 255: read as {' and '.join(names['classes'])}")
        return names | {"mask_values": {0: 0, 255: 1}}
    indices = sorted(set(found) - {given.get("ignore_index", IGNORE_INDEX)})
    gap = next((value for place, value in enumerate(indices) if value != place), None)
    if gap is not None and "classes" not in given:
        raise InputError(
            f"{root}: masks hold the values {_few(sorted(found))}, which are no classes 0, 1, 2,"
            f" ... ({gap} is in {found[gap].name}); correct the masks, or give classes and"
            " mask_values in dataset.yaml (or data.classes and data.mask_values)"
        )
    if "classes" in given:
        return {}
    ignored = ", 255 ignored" if IGNORE_INDEX in found else ""
    if len(indices) <= 2:
        notes.append(f"masks hold 0 and 1: read as background and foreground{ignored}")
        return names
    notes.append(
        f"masks hold the values 0 to {indices[-1]}: read as multiclass with {len(indices)}"
        f" classes{ignored}"
    )
    return {"task": "multiclass", "classes": tuple(f"class_{i}" for i in indices)}


def compare_classes(trained: Sequence[str], found: Sequence[str], *, where: object) -> str | None:
    """A line where classes have other names than those that a network was trained on, which may be
    a matter of taste; None where they are the same.

    Args:
        trained: those of the network.
        found: as many, of a data set.
        where: the data set, for messages.

    Raises:
        InputError: a name that both have stands for another index.
    """
    trained, found = list(trained), list(found)
    moved = [name for i, name in enumerate(found) if name in trained and trained[i] != name]
    if moved:
        raise InputError(
            f"{where}: its classes ({_few(found)}) are in another order than those of the training"
            f" ({_few(trained)}): {moved[0]!r} is {found.index(moved[0])} here and was"
            f" {trained.index(moved[0])}; bring classes and masks into the order of the training"
        )
    renamed = [(old, new) for old, new in zip(trained, found, strict=True) if old != new]
    if not renamed:
        return None
    pairs = _few([f"{old} is {new} here" for old, new in renamed])
    return f"warning: classes have other names than those of the training: {pairs}"


def _few(values: Sequence[object]) -> str:
    return (
        ", ".join(map(str, values))
        if len(values) <= 8
        else f"{', '.join(map(str, values[:5]))}, ..., {values[-1]}"
    )
