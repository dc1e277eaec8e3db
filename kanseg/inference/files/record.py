"""Record in an output folder which networks and options made its masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_json, typed

RECORD = "prediction.json"
Provenance = list[dict[str, Any]]  # as of `Segmenter.provenance`


def begin_record(
    folder: Path,
    provenance: Provenance | None,
    *,
    skip_existing: bool,
    log: Callable[[str], None],
) -> None:
    """Add a prediction to the record of its output folder, before the first mask is written.

    Args:
        folder: for the masks.
        provenance: of the predictor; nothing is recorded if it is unknown (None).
        skip_existing: whether masks in the folder will be kept.
        log: called with a line if masks are kept that have no record.

    Raises:
        InputError: masks of other networks or options would be kept.
    """
    if provenance is None:
        return
    path = folder / RECORD
    recorded: list[Provenance] = []
    if path.is_file():
        recorded = typed(read_json(path), list[Provenance], path)
    elif skip_existing and any(folder.iterdir()):
        log(f"{folder} has no {RECORD}: masks in it are kept, whatever made them")
    for other in recorded:
        if skip_existing and other != provenance:
            raise InputError(
                f"{folder} holds masks that were made with other settings ("
                f"{', '.join(_differences(other, provenance))}); choose another --output, or"
                " predict them again without --skip_existing"
            )
    if provenance not in recorded:
        atomic_write_text(path, json.dumps([*recorded, provenance], indent=1) + "\n")


def replace_record(folder: Path, provenance: Provenance | None) -> None:
    """Record a prediction that has replaced all earlier masks as the only one."""
    if provenance is not None:
        atomic_write_text(folder / RECORD, json.dumps([provenance], indent=1) + "\n")


def _differences(one: Provenance, other: Provenance) -> list[str]:
    """Names of the entries in which two predictors differ."""
    if len(one) != len(other):
        return ["number of checkpoints"]
    names: list[str] = []
    for old, new in zip(one, other, strict=True):
        names += [name for name in new if old.get(name) != new[name]]
    return list(dict.fromkeys(names))
