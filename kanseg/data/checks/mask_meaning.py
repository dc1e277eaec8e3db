"""Find masks whose values are probably misread: colors that contradict indices, and classes that
fill every image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kanseg.data.checks.prober import LabelFacts, Prober, mask_files
from kanseg.data.formats.issues import Issue
from kanseg.data.io.colors import unpack_rgb
from kanseg.data.io.probe import MaskFacts
from kanseg.data.label_spec import LabelSpec
from kanseg.data.labels import index_by_palette
from kanseg.data.names import few
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

Masks = Mapping[Path, MaskFacts]


def colors_against_indices(
    samples: Sequence[Sample], spec: LabelSpec | None, prober: Prober
) -> list[Issue]:
    """Find masks whose colors contradict the values that are read."""
    masks = _readable_masks(samples, prober)
    if spec is not None and not spec.holds_indices:
        return []  # mask_values give the meaning
    if spec is not None and spec.index_of_color and spec.task != "multilabel":
        without_palette = {path: mask for path, mask in masks.items() if not mask.palette}
        return _white_at_0(without_palette, prober) + _other_palette(masks, spec, prober)
    return _white_at_0(masks, prober) + _palettes_differ(masks, prober)


def read_by_color(samples: Sequence[Sample], spec: LabelSpec | None, prober: Prober) -> list[str]:
    """Return a note if indexed masks are read by their colors, and the indices are in another
    order.
    """
    if spec is None or spec.task == "multilabel":
        return []
    reordered = []
    for path, mask in _readable_masks(samples, prober).items():
        if not mask.palette:
            continue
        try:
            by_color = index_by_palette(dict(mask.palette), spec)
        except InputError:  # reported as an error
            continue
        by_index = {index: spec.index_of_value.get(index) for index, _ in mask.palette}
        if by_color is not None and by_color != by_index:
            reordered.append(prober.name(path))
    if not reordered:
        return []
    return [
        translate(
            "{count} indexed masks are read by the colors of their palettes, because a palette is"
            " given; their indices are in another order: {names}",
            count=len(reordered),
            names=few(reordered),
        )
    ]


def classes_everywhere(
    labels: Mapping[Sample, LabelFacts], spec: LabelSpec, prober: Prober
) -> list[Issue]:
    """Find classes that fill every image, except the background."""
    if len(labels) < 2:
        return []
    counts = np.array([label.counts for label in labels.values()])
    if spec.task == "multilabel":
        pixels = np.array([label.size[0] * label.size[1] for label in labels.values()])
        first_class = 0
    else:
        pixels = counts.sum(axis=1)
        first_class = 1
    first = next(iter(labels))
    name = prober.name(next(mask_files(first), first.image))
    issues = []
    for index in range(first_class, len(spec.classes)):
        if (counts[:, index] == pixels).all() and pixels.all():
            reason = translate(
                "{name} fills all {count} images, such as this one; is the label in the alpha"
                " channel, or are the values inverted?",
                name=spec.classes[index],
                count=len(labels),
            )
            details = {"class": spec.classes[index]}
            issues.append(Issue("class_everywhere", name, reason, details=details))
    return issues


def _readable_masks(samples: Sequence[Sample], prober: Prober) -> dict[Path, MaskFacts]:
    found = {}
    for sample in samples:
        for path in mask_files(sample):
            mask = prober.mask(path)
            if mask.fault is None:
                found[path] = mask
    return found


def _white_at_0(masks: Masks, prober: Prober) -> list[Issue]:
    """Find masks whose files mark 0 as white."""
    found = [path for path, mask in masks.items() if mask.white_at_0]
    if not found:
        return []
    swapped = "0: 1"
    others = [value for value, *_ in masks[found[0]].values if value != 0]
    if others:
        swapped += f", {others[0]}: 0"
    reason = translate(
        "{count} masks mark 0 as white: {names}; their values are read as stored, so white is the"
        " background; if white is the object, give mask_values, such as {values}, or for colors"
        " classes and palette, in dataset.yaml",
        count=len(found),
        names=few(map(prober.name, found)),
        values=f"{{{swapped}}}",
    )
    return [Issue("white_at_0", prober.name(found[0]), reason)]


def _palettes_differ(masks: Masks, prober: Prober) -> list[Issue]:
    """Find the first index that has several colors in the palettes of the masks that use it."""
    users: dict[int, dict[int, Path]] = defaultdict(dict)
    for path, mask in masks.items():
        for index, color in mask.palette:
            users[index].setdefault(color, path)
    for index, by_color in sorted(users.items()):
        if len(by_color) < 2:
            continue
        (color, first), (other_color, other) = list(by_color.items())[:2]
        reason = translate(
            "index {index} has the color {color} here and {other_color} in {other}; if the colors"
            " identify the classes, give classes and palette in dataset.yaml",
            index=index,
            color=unpack_rgb(color),
            other_color=unpack_rgb(other_color),
            other=prober.name(other),
        )
        return [Issue("palettes_differ", prober.name(first), reason)]
    return []


def _other_palette(masks: Masks, spec: LabelSpec, prober: Prober) -> list[Issue]:
    """Find indexed masks that have none of the colors of the given palette."""
    found = []
    for path, mask in masks.items():
        colors = {color for _, color in mask.palette}
        if colors and not colors & spec.index_of_color.keys():
            found.append(path)
    if not found:
        return []
    reason = translate(
        "{count} indexed masks have none of the palette's colors and are read by their indices:"
        " {names}",
        count=len(found),
        names=few(map(prober.name, found)),
    )
    return [Issue("other_palette", prober.name(found[0]), reason)]
