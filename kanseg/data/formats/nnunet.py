"""The raw folder of nnU-Net, for 2-D images: imagesTr/, labelsTr/, imagesTs/ and dataset.json
(documentation/dataset_format.md of nnU-Net).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanseg.data.formats.folder import read_groups_or_problem, split_or_problem
from kanseg.data.formats.index import DatasetIndex, problem_of
from kanseg.data.formats.issues import Issue
from kanseg.data.formats.label_settings import ProbeMasks, read_label_settings
from kanseg.data.formats.listing import list_images
from kanseg.data.io.images import MAX_PIXELS
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.names import few, nfc
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_json

IMAGES, MASKS = "imagesTr", "labelsTr"
TEST_IMAGES, TEST_MASKS = "imagesTs", "labelsTs"
DESCRIPTION = "dataset.json"
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".b2nd")
IGNORE = "ignore"  # name of the label that nnU-Net leaves out


def is_nnunet(root: Path) -> bool:
    """True if the folders of training images and labels exist."""
    return (root / IMAGES).is_dir() and (root / MASKS).is_dir()


def read_nnunet(
    root: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    probe: ProbeMasks | None = None,  # noqa: ARG001 - the classes are always given
    strict: bool = True,
) -> DatasetIndex:
    """Index the cases of nnU-Net's raw folder: images `imagesTr/CASE_0000.png` and masks
    `labelsTr/CASE.png`, with the classes of dataset.json.

    A case has one image file, of gray or colors. The cases are split by a hash into train, val and
    test; if labelsTs/ exists, its cases are test, and those of labelsTr/ are train and val.

    Args:
        root, overrides, seed, max_pixels, strict: see `read_folder`.

    Raises:
        InputError: folders that do not exist, volumes, several files for the channels of a case;
            with `strict` any other error.
    """
    root = Path(root)
    if not is_nnunet(root):
        raise InputError(
            "format nnunet needs {images}/ and {masks}/ in it",
            images=IMAGES,
            masks=MASKS,
            where=root,
        )
    _refuse_volumes(root)
    notes: list[str] = []
    problems: list[Issue] = []
    spec = None
    try:
        spec = LabelSpec(**_label_settings(root, overrides or {}, notes))
    except InputError as error:
        problems.append(problem_of(error, root, "settings"))
    cases = _samples(root, IMAGES, MASKS, max_pixels, notes, problems)
    groups = read_groups_or_problem(root, problems)
    stems = split_or_problem(root, sorted(cases), groups, seed, notes, problems)
    splits = {name: [cases[stem] for stem in some] for name, some in stems.items()}
    if (root / TEST_MASKS).is_dir() and (root / TEST_IMAGES).is_dir() and splits:
        splits["train"] += splits["test"]
        test = _samples(root, TEST_IMAGES, TEST_MASKS, max_pixels, notes, problems)
        splits["test"] = [test[stem] for stem in sorted(test)]
        notes.append(
            translate(
                "test is {test_images} and {test_masks}; the cases of the other test train",
                test_images=TEST_IMAGES,
                test_masks=TEST_MASKS,
            )
        )
    index = DatasetIndex(
        root,
        spec,
        {name: tuple(members) for name, members in splits.items()},
        problems=tuple(problems),
        notes=tuple(notes),
        groups=groups,
        split_by_hash=True,
    )
    return index.raise_errors() if strict else index


def _refuse_volumes(root: Path) -> None:
    """Raise InputError if the images are volumes."""
    for path in sorted((root / IMAGES).iterdir()):
        if path.name.lower().endswith(VOLUMES):
            raise InputError(
                "a volume; kanseg reads 2-D images: write its slices, and those of {masks}/,"
                " as PNG or TIFF of the same names into images/ and masks/ (nibabel's"
                " load(f).get_fdata()[:, :, i], then kanseg.data.write_png for the masks)",
                masks=MASKS,
                where=path,
            )


def _samples(
    root: Path,
    images: str,
    masks: str,
    max_pixels: int,
    notes: list[str],
    problems: list[Issue],
) -> dict[str, Sample]:
    """Return case -> sample of a folder of images and one of masks."""
    files: dict[str, list[Path]] = defaultdict(list)
    for stem, path in list_images(root / images, root, notes, problems).items():
        match = CHANNEL.fullmatch(stem)
        if match is None:
            raise InputError(
                "expected a name such as CASE_0000{suffix}",
                suffix=path.suffix,
                where=path,
            )
        files[nfc(match["case"])].append(path)
    several = {case: paths for case, paths in files.items() if len(paths) > 1}
    if several:
        case, paths = next(iter(several.items()))
        names = ", ".join(f"'{path.name}'" for path in paths)
        raise InputError(
            "case {case} has {count} image files, one a channel ({total} cases alike), and"
            " kanseg reads one file an image; stack each case: tifffile.imwrite('{case}.tif',"
            " numpy.dstack([PIL.Image.open(f) for f in ({names})])), into images/, the masks"
            " into masks/, with data.channels {count}",
            case=case,
            count=len(paths),
            total=len(several),
            names=names,
            where=root / images,
        )
    found = list_images(root / masks, root, notes, problems)
    without = [case for case in found if case not in files]
    if without:
        reason = translate(
            "{count} masks have no image in {folder}/: {names}",
            count=len(without),
            folder=images,
            names=few(without),
        )
        problems.append(Issue("no_image", masks, reason))
    samples = {}
    for case, paths in files.items():
        samples[case] = Sample(case, paths[0], found.get(case), max_pixels)
    return samples


def _label_settings(
    root: Path, overrides: Mapping[str, object], notes: list[str]
) -> dict[str, Any]:
    """Return the label settings, completed from dataset.json."""
    given = read_label_settings(root, overrides)
    if "classes" in given or not (root / DESCRIPTION).is_file():
        if "classes" not in given:
            raise InputError(
                "there is no {description} with the labels; give classes",
                description=DESCRIPTION,
                where=root,
            )
        given.setdefault("task", "binary" if len(given["classes"]) == 2 else "multiclass")
        return given
    values = _read_labels(root / DESCRIPTION)
    ignored = values.pop(IGNORE, None)
    classes = sorted(values, key=values.get)
    if [values[name] for name in classes] != list(range(len(classes))):
        raise InputError(
            "labels must be 0 (background), 1, 2, ..., got {values}",
            values=values,
            where=root / DESCRIPTION,
        )
    notes.append(
        translate(
            "classes are read from {description}: {names}",
            description=DESCRIPTION,
            names=", ".join(classes),
        )
    )
    task = "multiclass"
    if len(classes) == 2:
        task = "binary"
    known: dict[str, Any] = {"task": task, "classes": tuple(classes)}
    if ignored is not None:
        known["mask_values"] = {ignored: IGNORE_INDEX}
        notes.append(
            translate(
                "the label ignore ({ignored}) is left out of loss and metrics", ignored=ignored
            )
        )
    return known | given


def _read_labels(path: Path) -> dict[str, int]:
    """Return name -> value of the labels in dataset.json (before version 2: value -> name)."""
    content = read_json(path)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels:
        raise InputError("has no labels, a map such as {background: 0, tumor: 1}", where=path)
    found: dict[str, int] = {}
    for key, value in labels.items():
        if isinstance(value, list):
            raise InputError(
                "label {key!r} is a region of the values {value}; kanseg reads one class per"
                " value: give classes, or a mask per class in masks/CLASS/",
                key=key,
                value=value,
                where=path,
            )
        name, number = key, value
        if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", key):
            name, number = value, int(key)
        if not isinstance(number, int) or isinstance(number, bool):
            raise InputError(
                "label {key!r} has no number, got {value!r:.80}",
                key=key,
                value=value,
                where=path,
            )
        found[name] = number
    return found
