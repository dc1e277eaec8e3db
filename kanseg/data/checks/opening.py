"""A data set opened as far as it can be: what stops `open_data` becomes an entry of the report, and
the rest is still checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np

from kanseg.config import DataConfig
from kanseg.data.checks.files import Mask
from kanseg.data.checks.inspector import Inspector
from kanseg.data.checks.kinds import Issue
from kanseg.data.checks.survey import Survey
from kanseg.data.formats.folder import Folder
from kanseg.data.label_spec import MASK_READER, LabelSpec, dataset_yaml, given_labels, label_spec
from kanseg.data.opening import open_data
from kanseg.utils.errors import InputError

# a value in fewer masks than this share is taken for a fault where the values of all masks make no
# sense together
RARE = 0.2
_EXPLAINED = {"same_stem"}  # what the survey says in more detail


def open_in_part(
    data: DataConfig, found: Survey, inspector: Inspector
) -> tuple[Folder | None, LabelSpec | None, list[Issue]]:
    """(the data set, its label information, faults); None for what cannot be told."""
    first = error = None
    for frequent_only in (False, True):
        try:
            with _known_values(found, inspector, frequent_only=frequent_only):
                folder = open_data(data, log=lambda _: None)
        except InputError as caught:
            first, error = first or caught, caught
        else:
            return (
                folder,
                folder.info,
                [] if first is None else [Issue("odd_masks", ".", _reason(first, data))],
            )
    if not found.is_folder_form:
        return None, None, [Issue("layout", ".", _reason(error, data))]
    info, issues = _labels(data, found, inspector)
    explained = _EXPLAINED & {issue.code for issue in found.issues} or _reason(error, data) in {
        issue.reason for issue in issues
    }
    if not explained and not any(issue.code == "settings" for issue in issues):
        issues.append(Issue("layout", ".", _reason(error, data)))
    return None, info, issues


@contextmanager
def _known_values(found: Survey, inspector: Inspector, *, frequent_only: bool) -> Iterator[None]:
    """Within it `label_spec` gets the values of a mask from the inspector: looked at in threads,
    and not at all if unchanged.

    Masks that tell nothing of the classes are refused, colors without a palette and lossy files;
    with `frequent_only` so are values that few masks have.
    """
    frequent: Callable[[int], bool] | None = None

    def read(path: Path, **_: object) -> np.ndarray:
        nonlocal frequent
        if frequent is None:
            inspector.look([], found.mask_paths())
            frequent = _frequent(found, inspector) if frequent_only else lambda value: True
        mask = inspector.mask(path)
        if not _tells(mask):
            raise InputError(f"{path}: tells nothing of the classes")
        return np.array([row[0] for row in mask.values if frequent(row[0])], dtype=np.int64)

    token = MASK_READER.set(read)
    try:
        yield
    finally:
        MASK_READER.reset(token)


def _tells(mask: Mask) -> bool:
    return mask.fault is None and not mask.color and not mask.lossy


def _frequent(found: Survey, inspector: Inspector) -> Callable[[int], bool]:
    """Whether a value is in a fair share of the masks."""
    masks = [mask for path in found.mask_paths() if _tells(mask := inspector.mask(path))]
    files = Counter(row[0] for mask in masks for row in mask.values)
    return lambda value: files[value] >= RARE * len(masks)


def _labels(
    data: DataConfig, found: Survey, inspector: Inspector
) -> tuple[LabelSpec | None, list[Issue]]:
    """The label information of a set whose layout is broken; where single masks stand against it,
    as the others tell it.
    """
    root = Path(data.root)
    try:
        dataset_yaml(root)
    except InputError as error:
        return None, [
            Issue("settings", "dataset.yaml", str(error).removeprefix(f"{root / 'dataset.yaml'}: "))
        ]
    first = None
    for frequent_only in (False, True):
        try:
            with _known_values(found, inspector, frequent_only=frequent_only):
                return (
                    label_spec(
                        root,
                        given_labels(
                            root, {f.name: getattr(data, f.name) for f in fields(LabelSpec)}
                        ),
                        found.mask_paths(),
                        [],
                        max_pixels=data.max_pixels,
                    ),
                    [],
                )
        except InputError as error:
            first = first or error
    return None, [Issue("labels", ".", _reason(first, data))]


def _reason(error: InputError, data: DataConfig) -> str:
    return str(error).removeprefix(f"{data.root}: ").removeprefix(f"{Path(data.root)}: ")
