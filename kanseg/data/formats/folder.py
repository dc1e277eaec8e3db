"""Mask layouts of a data set: folders of images and of masks, and split files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from kanseg.data.formats.class_folders import (
    Files,
    MaskFiles,
    class_folder_names,
    list_masks,
    multilabel_spec,
)
from kanseg.data.formats.index import DatasetIndex, problem_of
from kanseg.data.formats.issues import Issue
from kanseg.data.formats.label_settings import (
    ProbeMasks,
    complete_label_spec,
    read_label_settings,
    read_layout_settings,
)
from kanseg.data.formats.listing import describe_folders, list_images, no_images
from kanseg.data.formats.mask_folders import (
    Pair,
    are_class_folders,
    divide_mixed,
    find_pairs,
    find_suffixes,
)
from kanseg.data.formats.split_files import list_split_files, read_groups, read_split_files
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.io.probe import probe_masks
from kanseg.data.label_spec import LabelSpec
from kanseg.data.sample import Sample
from kanseg.data.splits import SPLITS, seeded_split
from kanseg.utils.command import command
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.registry import nearest


def read_folder(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    probe: ProbeMasks | None = None,
    strict: bool = True,
) -> DatasetIndex:
    """Index the images, masks, splits and label spec of a folder.

    Layouts: `images/` and `masks/` with split files `NAME.txt` (stems, one per line); the same
    without split files (a seeded 70/15/15 split, by group if there is a `groups.csv` of
    NAME,GROUP); or `train/ val/ test/`, each with `images/` and `masks/`; or folders of other names
    and masks of other suffixes (`find_pairs`, `find_suffixes`). For a multilabel task `masks/` has
    a folder per class (`masks/0/NAME.png` or `masks/CLASS/NAME.png`); a class without a file is
    absent from that image. `dataset.yaml` gives task, classes, mask_values, ignore_index and
    palette, and the folders images and masks; `overrides` replace its entries; missing entries are
    inferred from the masks and reported in `notes`.

    Args:
        root: the folder.
        overrides: entries that replace those of dataset.yaml.
        seed: of a seeded split.
        max_pixels: limit of pixels of an image or mask.
        probe: returns the facts about mask files, for example from a cache; by default
            `probe_masks`.
        strict: raise the first problem that stops a training; otherwise the index holds all of
            them in `problems`.

    Raises:
        InputError: there is no such folder, or no images/ in it; with `strict` any other error.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            "no such folder (looked for {path}); data.root (or --root) must hold images/ and"
            " masks/, or train/, val/ and test/ with them",
            path=root.resolve(),
            where=root,
        )
    notes: list[str] = []
    problems: list[Issue] = []
    layout = read_layout_settings(root)
    named = {key: layout[key] for key in ("images", "masks") if key in layout}
    pairs = find_pairs(root, named, notes)
    if not pairs:
        hint = ""
        if are_class_folders(root):
            tool = f"{command('classify')} --data.root {shlex.quote(str(root))}"
            hint = translate(
                "to classify images that lie in a folder for each class, use `{tool}`; ", tool=tool
            )
        raise InputError(
            "no images and masks that belong together were found; {hint}{advice}",
            hint=hint,
            advice=describe_folders(root),
            where=root,
        )
    images, masks = _list_files(root, pairs, layout, notes, problems)
    probe = probe or partial(probe_masks, max_pixels=max_pixels)
    masks, class_folders, spec = _read_labels(root, masks, overrides, probe, notes, problems)
    samples: dict[Pair, dict[str, Sample]] = {}
    for pair, files in images.items():
        samples[pair] = {}
        for stem, path in files.items():
            mask = masks[pair].mask_of(stem, class_folders)
            samples[pair][stem] = Sample(stem, path, mask, max_pixels)
        for stem, path in masks[pair].all_files():
            if stem not in files:
                hint = nearest(stem, files)
                reason = translate(
                    "a mask without an image in {folder}/{hint}",
                    folder=pair.images.name,
                    hint=hint,
                )
                problems.append(Issue("no_image", path.relative_to(root).as_posix(), reason))
    groups = read_groups_or_problem(root, problems)
    split_problems: dict[str, tuple[Issue, ...]] = {}
    split_by_hash, unlisted = False, ()
    whole = pairs[0]
    if not whole.split:
        stems, split_problems = read_split_files(list_split_files(root), images[whole], root)
        # Other text files without the name of an image are split files only if the settings name
        # them.
        stems = {name: some for name, some in stems.items() if some or name in SPLITS}
        # a text file with problems is a split file only under the name of a split
        split_by_hash = not any(
            name in SPLITS or name not in split_problems for name in {*stems, *split_problems}
        )
        if split_by_hash and images[whole]:
            stems |= split_or_problem(root, sorted(images[whole]), groups, seed, notes, problems)
        splits = {name: _pick(samples[whole], some) for name, some in stems.items()}
        listed: set[str] = set()
        listed.update(*stems.values())
        unlisted = _pick(samples[whole], [stem for stem in images[whole] if stem not in listed])
    else:
        splits = {pair.split: _pick(some, sorted(some)) for pair, some in samples.items()}
    index = DatasetIndex(
        root,
        spec,
        splits,
        unlisted=unlisted,
        problems=tuple(problems),
        split_problems=split_problems,
        notes=tuple(notes),
        groups=groups,
        split_by_hash=split_by_hash,
    )
    return index.raise_errors() if strict else index


def read_groups_or_problem(root: Path, problems: list[Issue]) -> dict[str, str] | None:
    """Read groups.csv; add an error to `problems`."""
    try:
        return read_groups(root)
    except InputError as error:
        problems.append(problem_of(error, root, "no_group"))
        return None


def split_or_problem(
    root: Path,
    names: Sequence[str],
    groups: Mapping[str, str] | None,
    seed: int,
    notes: list[str],
    problems: list[Issue],
    *,
    units: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Call `seeded_split`; if that fails, add the error to `problems` and return {}."""
    try:
        return seeded_split(root, names, groups, seed, notes, units=units)
    except InputError as error:
        problems.append(problem_of(error, root))
        return {}


def _list_files(
    root: Path,
    pairs: Sequence[Pair],
    layout: Mapping[str, str],
    notes: list[str],
    problems: list[Issue],
) -> tuple[dict[Pair, Files], dict[Pair, MaskFiles]]:
    """Return (name -> image, masks) of each pair of folders, both without suffixes such as _mask.

    Args:
        layout: entries of dataset.yaml, from `read_layout_settings`.
    """
    images, masks = {}, {}
    for pair in pairs:
        files = list_images(pair.images, root, notes, problems)
        if not files:
            problems.append(no_images(pair.images, root))
        if pair.images == pair.masks:
            of_images, of_masks = divide_mixed(files) or (files, ())
            found = MaskFiles({stem: files[stem] for stem in of_masks}, {})
            files = {stem: files[stem] for stem in of_images}
        else:
            found = list_masks(pair.masks, root, notes, problems)
        given = layout.get("image_suffix", ""), layout.get("mask_suffix", "")
        images[pair], masks[pair] = _without_suffixes(pair, files, found, given, notes)
    return images, masks


def _without_suffixes(
    pair: Pair, images: Files, masks: MaskFiles, given: tuple[str, str], notes: list[str]
) -> tuple[Files, MaskFiles]:
    """Return images and masks by the part of their names that they share.

    Args:
        given: suffixes of images and masks in dataset.yaml; ("", "") to find them.

    Raises:
        InputError: no mask has the name of an image, and no suffixes explain it.
    """
    suffixes = given
    if not any(given) and images and masks.files:
        suffixes = find_suffixes(images, masks.files)
    if suffixes is None:
        image, mask = min(images.values()), min(masks.files.values())
        raise InputError(
            "no mask has the name of an image: images are named like {image}, masks like"
            " {mask}; if their names end differently, give mask_suffix (and image_suffix) in"
            " dataset.yaml, such as {{mask_suffix: _mask}}",
            image=image.name,
            mask=mask.name,
            where=pair.masks,
        )
    if not any(suffixes):
        return images, masks
    of_image, of_mask = suffixes
    notes.append(
        translate(
            "the mask of NAME{of_image} in {images}/ is NAME{of_mask} in {masks}/",
            of_image=of_image,
            images=pair.images.name,
            of_mask=of_mask,
            masks=pair.masks.name,
        )
    )
    of_images = _strip(images, of_image, pair.images, notes)
    of_masks = _strip(masks.files, of_mask, pair.masks, notes)
    return of_images, MaskFiles(of_masks, masks.by_class)


def _strip(files: Files, suffix: str, folder: Path, notes: list[str]) -> Files:
    """Return the files whose names end in a suffix, by the names without it.

    Raises:
        InputError: there is none.
    """
    found = {
        stem.removesuffix(suffix): path for stem, path in files.items() if stem.endswith(suffix)
    }
    if files and not found:
        raise InputError(
            "no name ends in {suffix}, as dataset.yaml says", suffix=suffix, where=folder
        )
    if len(found) < len(files):
        others = len(files) - len(found)
        notes.append(
            translate(
                "left out: {others} files of {folder}/ whose names do not end {suffix}",
                others=others,
                folder=folder.name,
                suffix=suffix,
            )
        )
    return found


def _read_labels(
    root: Path,
    masks: dict[Pair, MaskFiles],
    overrides: Mapping[str, object] | None,
    probe: ProbeMasks,
    notes: list[str],
    problems: list[Issue],
) -> tuple[dict[Pair, MaskFiles], list[str] | None, LabelSpec | None]:
    """Return (masks, folder of each class or None for one mask per image, label spec or None)."""
    masks = dict(masks)
    class_folders = class_folder_names(list(masks.values())) or None
    try:
        given = read_label_settings(root, overrides or {})
    except InputError as error:
        problems.append(problem_of(error, root, "settings"))
        return masks, class_folders, None
    one_each = all(len(files.by_class) <= 1 for files in masks.values())
    if class_folders and given.get("task") == "binary" and one_each:
        class_folders = None
        for base, each in masks.items():  # as if the files were in masks/ itself
            masks[base] = MaskFiles(next(iter(each.by_class.values()), each.files), {})
    if class_folders:
        try:
            spec, class_folders = multilabel_spec(class_folders, given, notes)
        except InputError as error:
            problems.append(Issue("layout", ".", str(error)))
            spec = None
        return masks, class_folders, spec
    if given.get("task") == "multilabel":
        reason = translate(
            "a multilabel task needs a folder per class, masks/0/NAME.png, masks/1/NAME.png, ...,"
            " but the masks are in masks/ itself"
        )
        problems.append(Issue("layout", ".", reason))
        return masks, None, None
    paths: list[Path] = []
    for files in masks.values():
        paths += files.files.values()
    spec, found = complete_label_spec(given, sorted(paths), probe, notes)
    problems += found
    return masks, None, spec


def _pick(samples: Mapping[str, Sample], stems: Sequence[str]) -> tuple[Sample, ...]:
    return tuple(samples[stem] for stem in stems)
