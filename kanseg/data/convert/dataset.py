"""Write a data set in another layout."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from kanseg.data.checks.check import check_samples
from kanseg.data.convert.coco import write_coco
from kanseg.data.convert.folder import write_folder
from kanseg.data.convert.items import Item, items_of
from kanseg.data.convert.labelme import write_labelme
from kanseg.data.formats.index import DatasetIndex
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_folder

LAYOUTS = {"folder": write_folder, "coco": write_coco, "labelme": write_labelme}


def convert(
    index: DatasetIndex,
    destination: Path | str,
    *,
    to: str = "folder",
    skip_bad: bool = False,
    log: Callable[[str], None] = print,
) -> int:
    """Write a data set of any layout as `folder` (images/, masks/, split files), `coco` or
    `labelme`. Masks keep every pixel, samples their split, and images are copied byte for byte.

    Args:
        index: from `open_data`.
        destination: a folder that does not exist, or is empty; it is written completely or not at
            all.
        to: the layout.
        skip_bad: leave out samples that cannot be read, instead of stopping.
        log: called with a line about what cannot be written.

    Returns:
        The number of images.

    Raises:
        InputError: an unknown layout, a folder that holds files or lies in that of the data set, an
            image or mask that cannot be read.

    Example:
        >>> convert(open_data(DataConfig(root="labelme_export")), "data/cells", to="folder")
    """
    destination = Path(destination)
    if to not in LAYOUTS:
        raise InputError(f"to must be one of {', '.join(LAYOUTS)}, got {to!r}")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination}: exists and is not an empty folder; nothing is replaced")
    if destination.resolve().is_relative_to(index.root.resolve()):
        raise InputError(f"{destination}: lies in the data set itself; choose another folder")
    for problems in index.split_problems.values():
        raise index.error(problems[0])
    items = items_of(index)
    if skip_bad:
        items = _without_bad(items, index, log)
    with atomic_folder(destination) as temporary:
        LAYOUTS[to](temporary, items, index.label_spec, log)
        _write_groups(temporary, index, items)
    return len(items)


def _without_bad(items: list[Item], index: DatasetIndex, log: Callable[[str], None]) -> list[Item]:
    """Leave out samples with errors, except images without a mask."""
    with_mask = [item.sample for item in items if item.sample.has_mask]
    faults = check_samples(with_mask, index.label_spec).faults
    for fault in faults.values():
        log(f"left out: {fault}")
    return [item for item in items if item.sample not in faults]


def _write_groups(root: Path, index: DatasetIndex, items: list[Item]) -> None:
    """Write groups.csv, if the data set has groups."""
    if index.groups is None:
        return
    with (root / "groups.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        for item in items:
            if item.sample.name in index.groups:
                table.writerow([item.name, index.groups[item.sample.name]])
