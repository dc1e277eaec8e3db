"""What speaks against the meaning in which the masks of a data set are read: colors that contradict
indices, and classes that are everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kanseg.data.checks.files import Mask
from kanseg.data.checks.inspector import Inspector, Label, mask_files
from kanseg.data.checks.kinds import Issue
from kanseg.data.checks.survey import few
from kanseg.data.label_spec import LabelSpec
from kanseg.data.labels import indices_by_color
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError


def colors_against_indices(
    samples: Sequence[Sample], info: LabelSpec | None, inspector: Inspector
) -> list[Issue]:
    """Masks whose colors say something else than the values that are read."""
    masks = _usable(samples, inspector)
    if info is not None and not info.holds_indices:
        return []  # mask_values say what the values mean
    if info is not None and info.index_of_color and info.task != "multilabel":
        white_gray = {path: mask for path, mask in masks.items() if not mask.palette}
        return _white_at_0(white_gray, inspector) + _other_palette(masks, info, inspector)
    return _white_at_0(masks, inspector) + _palettes_differ(masks, inspector)


def read_by_color(
    samples: Sequence[Sample], info: LabelSpec | None, inspector: Inspector
) -> list[str]:
    """A note when indexed masks are read by their colors, and these are in another order than their
    indices.
    """
    if info is None or info.task == "multilabel":
        return []
    reordered = [
        path
        for path, mask in _usable(samples, inspector).items()
        if _by_color(mask, info) not in (None, _by_index(mask, info))
    ]
    if not reordered:
        return []
    return [
        f"{len(reordered)} indexed masks are read by the colors of their palettes, since a palette"
        " is given; their indices are in another order:"
        f" {few(inspector.name(path) for path in reordered)}"
    ]


def classes_everywhere(
    labels: Mapping[Sample, Label], info: LabelSpec, inspector: Inspector
) -> list[Issue]:
    """Classes that fill every image, the background left out."""
    if len(labels) < 2:
        return []
    multilabel = info.task == "multilabel"
    counts = np.array([label.counts for label in labels.values()])
    pixels = np.array([label.size[0] * label.size[1] for label in labels.values()])
    if not multilabel:
        pixels = counts.sum(axis=1)
    first = next(iter(labels))
    name = inspector.name(next(mask_files(first), first.image))
    return [
        Issue(
            "class_everywhere",
            name,
            f"{info.classes[index]} fills every one of {len(labels)} images, as in this one; is"
            " the label somewhere else (in the alpha channel), or are the values inverted?",
            details={"class": info.classes[index]},
        )
        for index in range(0 if multilabel else 1, len(info.classes))
        if (counts[:, index] == pixels).all() and pixels.all()
    ]


def _usable(samples: Sequence[Sample], inspector: Inspector) -> dict[Path, Mask]:
    paths = dict.fromkeys(path for sample in samples for path in mask_files(sample))
    return {path: mask for path in paths if (mask := inspector.mask(path)).fault is None}


def _by_color(mask: Mask, info: LabelSpec) -> dict[int, int] | None:
    try:
        return indices_by_color(dict(mask.palette), info) if mask.palette else None
    except InputError:  # an error of its own
        return None


def _by_index(mask: Mask, info: LabelSpec) -> dict[int, int | None]:
    return {index: info.index_of_value.get(index) for index, _ in mask.palette}


def _white_at_0(masks: Mapping[Path, Mask], inspector: Inspector) -> list[Issue]:
    found = [path for path, mask in masks.items() if mask.white_at_0]
    if not found:
        return []
    others = [value for value, *_ in masks[found[0]].values if value != 0]
    swapped = ", ".join(["0: 1", *(f"{value}: 0" for value in others[:1])])
    reason = (
        f"{len(found)} masks say that 0 is white: {few(inspector.name(path) for path in found)};"
        " their values are read as stored, so that what is white is background; if white is the"
        f" object, give mask_values, such as {{{swapped}}}, or for colors classes and palette, in"
        " dataset.yaml"
    )
    return [Issue("white_at_0", inspector.name(found[0]), reason)]


def _palettes_differ(masks: Mapping[Path, Mask], inspector: Inspector) -> list[Issue]:
    """The first index that has several colors in the palettes of the masks that use it."""
    users: dict[int, dict[int, Path]] = defaultdict(dict)
    for path, mask in masks.items():
        for index, color in mask.palette:
            users[index].setdefault(color, path)
    for index, by_color in sorted(users.items()):
        if len(by_color) < 2:
            continue
        (color, first), (other_color, other) = list(by_color.items())[:2]
        reason = (
            f"index {index} has the color {_rgb(color)} here and {_rgb(other_color)} in"
            f" {inspector.name(other)}; if the colors tell the classes, give classes and palette in"
            " dataset.yaml"
        )
        return [Issue("palettes_differ", inspector.name(first), reason)]
    return []


def _other_palette(
    masks: Mapping[Path, Mask], info: LabelSpec, inspector: Inspector
) -> list[Issue]:
    """Indexed masks of which no color is one of the given palette."""
    found = [
        path
        for path, mask in masks.items()
        if mask.palette and not any(color in info.index_of_color for _, color in mask.palette)
    ]
    if not found:
        return []
    reason = (
        f"{len(found)} indexed masks have none of the palette's colors and are read by their"
        f" indices: {few(inspector.name(path) for path in found)}"
    )
    return [Issue("other_palette", inspector.name(found[0]), reason)]


def _rgb(code: int) -> list[int]:
    return [code >> 16, code >> 8 & 255, code & 255]
