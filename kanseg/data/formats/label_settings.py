"""The label spec of a data set: from dataset.yaml and settings, completed from the masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from kanseg.data.formats.issues import Issue
from kanseg.data.io.colors import unpack_rgb, voc_palette
from kanseg.data.io.probe import MaskFacts
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec, is_byte
from kanseg.data.names import few, shorten
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_yaml
from kanseg.utils.registry import nearest

ProbeMasks = Callable[[Sequence[Path]], list[MaskFacts]]
DATASET = "dataset.yaml"
LAYOUT_KEYS = ("images", "masks", "image_suffix", "mask_suffix")  # of dataset.yaml
MAX_COLORS = 32  # more colors than this are not classes
RARE = 0.2  # share of the masks; rarer values, and those of one mask, are mistakes if the values of
# all masks make no sense together


def read_label_settings(root: Path, overrides: Mapping[str, object]) -> dict[str, Any]:
    """Return the entries of `root/dataset.yaml`, replaced by the overrides that are not None, with
    the types of `LabelSpec`.

    Raises:
        InputError: unknown entries, or entries of the wrong kind.
    """
    given = _read_dataset_yaml(root)
    given = {key: value for key, value in given.items() if key not in LAYOUT_KEYS}
    given |= {key: value for key, value in overrides.items() if value is not None}
    if given.get("classes") is not None:
        given["classes"] = _class_names(root, given["classes"])
    if given.get("mask_values") is not None:
        given["mask_values"] = _integer_map(root, given["mask_values"])
    if given.get("palette") is not None:
        given["palette"] = _palette(root, given["palette"])
    # ignore_index: null means that no index is ignored; null for other entries means "not given"
    return {key: each for key, each in given.items() if each is not None or key == "ignore_index"}


def read_layout_settings(root: Path) -> dict[str, str]:
    """Return the entries of `root/dataset.yaml` that name folders and suffixes: images, masks,
    image_suffix, mask_suffix.

    Raises:
        InputError: a folder that does not exist below the root. Other errors of the file are raised
            by `read_label_settings`.
    """
    try:
        content = _read_dataset_yaml(root)
    except InputError:
        return {}
    found = {key: content[key] for key in LAYOUT_KEYS if content.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, str):
            raise InputError(
                "{key} must be text, got {value!r:.80}",
                key=key,
                value=value,
                where=root / DATASET,
            )
        if key in ("images", "masks"):
            folder = root / value
            if not is_folder_within(folder, root):
                raise InputError(
                    "{key}: {value!r:.200} is not a folder in it",
                    key=key,
                    value=value,
                    where=root / DATASET,
                )
    return found


def is_folder_within(folder: Path, root: Path) -> bool:
    """True for an existing folder that is not outside of the root."""
    try:
        return folder.is_dir() and folder.resolve().is_relative_to(root.resolve())
    except OSError:  # such as a name that is too long
        return False


def complete_label_spec(
    given: Mapping[str, Any], masks: Sequence[Path], probe_masks: ProbeMasks, notes: list[str]
) -> tuple[LabelSpec | None, list[Issue]]:
    """Infer missing label settings from the values of the masks.

    Color masks, lossy files and unreadable files are not considered.

    Args:
        given: from `read_label_settings`.
        masks: mask files with one value per pixel.
        probe_masks: returns the facts about mask files; called only if they are needed.
        notes: receives lines about decisions.

    Returns:
        (the label spec or None, problems). If a few masks have values that make no sense, the spec
        is that of the other masks, and there is a note; reading these masks is an error.
    """
    given = dict(given)
    _add_defaults(given)
    try:
        if "classes" in given and ("mask_values" in given or "palette" in given):
            return LabelSpec(**given), []
    except InputError as error:
        return None, [Issue("labels", ".", str(error))]
    usable: dict[Path, MaskFacts] = {}
    colors: Counter = Counter()
    for path, mask in zip(masks, probe_masks(masks), strict=True):
        if mask.color:
            colors.update({color: pixels for color, pixels, *_ in mask.values})
        if mask.fault is None and not mask.color and not mask.lossy:
            usable[path] = mask
    return _infer_from_masks(given, usable, notes, colors=colors)


def _add_defaults(given: dict[str, Any]) -> None:
    """Add the task that follows from the classes, or the classes of a binary task."""
    if "task" not in given and "classes" in given:
        given["task"] = "multiclass"
        if len(given["classes"]) == 2:
            given["task"] = "binary"
    maps_classes = set(given.get("mask_values", ())) - _ignored_values(given)
    if "classes" not in given and given.get("task") == "binary" and maps_classes:
        given["classes"] = ("background", "foreground")


def _ignored_values(given: Mapping[str, Any]) -> set[int]:
    """Return the values in mask_values if it maps all of them to ignored; else an empty set."""
    pairs = given.get("mask_values") or {}
    if set(pairs.values()) <= {IGNORE_INDEX, given.get("ignore_index", IGNORE_INDEX)}:
        return set(pairs)
    return set()


def _infer_from_masks(
    given: Mapping[str, Any],
    masks: Mapping[Path, MaskFacts],
    notes: list[str],
    *,
    colors: Mapping[int, int],
) -> tuple[LabelSpec | None, list[Issue]]:
    """Infer the label spec from all masks, or else from those without rare values; see
    `complete_label_spec`.
    """
    first_file: dict[int, Path] = {}
    count: Counter = Counter()
    for path, mask in masks.items():
        for value, *_ in mask.values:
            first_file.setdefault(value, path)
            count[value] += 1
    try:
        return _infer(given, first_file, notes, colors=colors), []
    except InputError as error:
        problem = Issue("labels", ".", str(error))
    frequent = {}
    for value, path in first_file.items():
        if count[value] > 1 and count[value] >= RARE * len(masks):
            frequent[value] = path
    odd = []
    for path, mask in masks.items():
        if any(value not in frequent for value, *_ in mask.values):
            odd.append(path.name)
    if 2 * len(odd) >= len(masks):
        return None, [problem]
    try:
        spec = _infer(given, frequent, notes)
    except InputError:
        return None, [problem]
    rare = shorten(sorted(first_file.keys() - frequent.keys()))
    notes.append(
        translate(
            "the classes are inferred without {count} of {total} masks, which hold values that"
            " hardly any other mask has ({rare}): {names}",
            count=len(odd),
            total=len(masks),
            rare=rare,
            names=few(odd),
        )
    )
    return spec, []


def _infer(
    given: Mapping[str, Any],
    first_file: Mapping[int, Path],
    notes: list[str],
    *,
    colors: Mapping[int, int] | None = None,
) -> LabelSpec:
    """Infer the label spec from settings and mask values; InputError if the values are ambiguous.

    Args:
        given: label settings.
        first_file: value -> a file that has it.
        notes: receives lines about decisions.
        colors: packed color -> pixels of it in color masks, for the message.
    """
    given = dict(given)
    ignored = _ignored_values(given)
    found = {value: path for value, path in first_file.items() if value not in ignored}
    if not found and "classes" in given:
        return LabelSpec(**given)
    if not found and colors:
        raise InputError(_propose_palette(colors))
    if not found:
        raise InputError(
            "the classes cannot be inferred from the masks; give task and classes in dataset.yaml"
        )
    if set(found) <= {0, 255} and IGNORE_INDEX in found:
        guess = _binary_of_255(given, notes)
        guess["mask_values"] |= given.pop("mask_values", {})
    else:
        guess = _classes_of_indices(given, found, notes)
    return LabelSpec(**(guess | given))


def _propose_palette(colors: Mapping[int, int]) -> str:
    """Say that color masks need a palette, with the colors found as lines of dataset.yaml."""
    need = translate(
        "color masks need classes and palette in dataset.yaml (or data.classes and data.palette)"
    )
    if len(colors) > MAX_COLORS:
        return translate(
            "{need}, and these hold {count} colors or more: JPEG or resizing has blurred them, or"
            " they are photos; export the masks again as PNG",
            need=need,
            count=len(colors),
        )
    total = sum(colors.values())
    frequent = sorted(colors, key=lambda color: (color != 0, -colors[color]))  # black first
    shares = [f"{unpack_rgb(color)} {colors[color] / total:.1%}" for color in frequent]
    names = ["background" if color == 0 else f"NAME_{i}" for i, color in enumerate(frequent)]
    palette = ", ".join(str(unpack_rgb(color)) for color in frequent)
    return translate(
        "{need}; colors found: {shares}; a dataset.yaml to complete with your names:"
        " {{classes: [{names}], palette: [{palette}]}}",
        need=need,
        shares=", ".join(shares),
        names=", ".join(names),
        palette=palette,
    )


def _binary_of_255(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the label settings of masks that hold 0 and 255 only."""
    classes = given.get("classes", ("background", "foreground"))
    if given.get("ignore_index") == IGNORE_INDEX:
        raise InputError(
            "masks hold only 0 and 255, but ignore_index is 255; give mask_values, such as {0:"
            " 0, 255: 1}"
        )
    if len(classes) != 2:
        raise InputError(
            "masks hold only 0 and 255, but the classes are {names}; give mask_values, or two"
            " classes",
            names=", ".join(classes),
        )
    notes.append(translate("masks hold 0 and 255: read as {names}", names=" and ".join(classes)))
    return {"task": "binary", "classes": classes, "mask_values": {0: 0, 255: 1}}


def _classes_of_indices(
    given: Mapping[str, Any], found: Mapping[int, Path], notes: list[str]
) -> dict[str, Any]:
    """Return the missing label settings of masks that hold class indices."""
    if "classes" in given:
        return {}
    indices = sorted(set(found) - {given.get("ignore_index", IGNORE_INDEX)})
    for expected, value in enumerate(indices):
        if value != expected:
            raise InputError(
                "masks hold the values {values}; without classes they must be 0, 1, 2, ..."
                " without gaps, but {file} holds {value}; correct the masks, or give classes"
                " (and mask_values) in dataset.yaml or as data.classes, with which"
                " data.skip_bad can leave such masks out",
                values=shorten(sorted(found)),
                file=found[value].name,
                value=value,
            )
    ignored = translate(", 255 ignored") if IGNORE_INDEX in found else ""
    if len(indices) <= 2:
        notes.append(
            translate(
                "masks hold 0 and 1: read as background and foreground{ignored}", ignored=ignored
            )
        )
        return {"task": "binary", "classes": ("background", "foreground")}
    notes.append(
        translate(
            "masks hold the values 0 to {largest}: read as multiclass with {count}"
            " classes{ignored}",
            largest=indices[-1],
            count=len(indices),
            ignored=ignored,
        )
    )
    return {"task": "multiclass", "classes": tuple(f"class_{index}" for index in indices)}


def _read_dataset_yaml(root: Path) -> dict[str, Any]:
    """Return the entries of `root/dataset.yaml`; {} without that file."""
    path = root / DATASET
    if not path.is_file():
        return {}
    content = read_yaml(path) or {}
    if is_yolo_yaml(content):  # Ultralytics has files of this name too
        return {}
    known = [*(each.name for each in fields(LabelSpec)), *LAYOUT_KEYS]
    if not isinstance(content, dict):
        raise InputError(
            "expected `key: value` lines ({known})", known=", ".join(known), where=path
        )
    for key in content:
        if key not in known:
            raise InputError(
                "unknown key {key!r}{hint} (known: {known})",
                key=key,
                hint=nearest(str(key), known),
                known=", ".join(known),
                where=path,
            )
    return dict(content)


def is_yolo_yaml(content: object) -> bool:
    """True if the content of a YAML file has names and splits, as Ultralytics needs them."""
    if not isinstance(content, dict) or "names" not in content:
        return False
    return any(split in content for split in ("train", "val", "valid", "test"))


def _class_names(root: Path, classes: object) -> tuple[str, ...]:
    is_list = isinstance(classes, (list, tuple))
    if not is_list or not all(isinstance(name, str) or _is_integer(name) for name in classes):
        raise InputError(
            "classes must be a list of names, got {classes!r}",
            classes=classes,
            where=root,
        )
    return tuple(map(str, classes))


def _integer_map(root: Path, values: object) -> dict[int, int]:
    numbers: list[object] = [None]
    if isinstance(values, Mapping):
        numbers = [*values.keys(), *values.values()]
    if not all(map(_is_integer, numbers)):
        raise InputError(
            "mask_values must be a map of integers such as {{0: 0, 255: 1}}, got {values!r}",
            values=values,
            where=root,
        )
    return dict(values)


def _palette(root: Path, palette: object) -> tuple[tuple[int, int, int], ...]:
    if palette == "voc":
        return tuple(voc_palette())
    is_list = isinstance(palette, (list, tuple))
    if not is_list or not all(
        isinstance(color, (list, tuple)) and len(color) == 3 and all(map(is_byte, color))
        for color in palette
    ):
        raise InputError(
            "palette must be a list of [red, green, blue] from 0 to 255, or voc, got {palette!r}",
            palette=palette,
            where=root,
        )
    return tuple(tuple(color) for color in palette)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
