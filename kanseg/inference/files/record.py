"""The record of an output folder: which networks and options made its masks (prediction.json), and
how each file went (prediction.jsonl).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_json, typed

RECORD = "prediction.json"
Provenance = list[dict[str, Any]]  # as of `Segmenter.provenance`
# The entry in prediction.json for masks that were in the folder before it had one.
UNKNOWN: Provenance = []


@dataclass(frozen=True)
class FileResult:
    """How an image or a video went: a line of the journal.

    Args:
        input: path of the file.
        output: the mask (of a video its folder of masks, of a classifier the thumbnail) below the
            output folder; None if it failed.
        size: (H, W).
        frames: of a video.
        seconds: spent on reading, predicting (its share of the batch) and writing.
        error: what went wrong.
        cells: of a classifier: its row in the table, after the path.
        made_by: of a classifier: digest of the networks and options.
        time: when it was done.
    """

    input: str
    output: str | None = None
    size: tuple[int, int] | None = None
    frames: int | None = None
    seconds: float | None = None
    error: str | None = None
    cells: list[str] | None = None
    made_by: str | None = None
    time: str = field(default_factory=lambda: utc_time(time.time()))

    def to_dict(self) -> dict[str, Any]:
        """What is known of it, as plain JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Record:
    """Writes the record of an output folder.

    The journal gets a line as soon as a file is done, and is complete up to there if the process is
    killed. Processes that write into one folder have a journal each, since network file systems
    lose lines that several machines append.

    Args:
        folder: for the masks.
        provenance: of the predictor; prediction.json is not written if it is unknown (None).
        part: of the name of the journal, for one of several processes.
    """

    def __init__(self, folder: Path, provenance: Provenance | None, *, part: str = ""):
        self.folder, self.provenance = folder, provenance
        self.journal = journal_path(folder, part)
        self._lines: BinaryIO | None = None

    def begin(self, *, keep: bool, log: Callable[[str], None]) -> None:
        """Add the prediction to prediction.json, before the first mask is written.

        Args:
            keep: whether masks in the folder will be kept.
            log: called with a line if masks are kept that have no record.

        Raises:
            InputError: masks of other networks or options would be kept.
        """
        if self.provenance is None:
            return
        path = self.folder / RECORD
        recorded: list[Provenance] = []
        if path.is_file():
            recorded = typed(read_json(path), list[Provenance], path)
        elif keep and any(path.name[0] != "." for path in self.folder.iterdir()):
            recorded = [UNKNOWN]
        if keep and UNKNOWN in recorded:
            log(f"{self.folder} holds masks without a record: they are kept, whatever made them")
        for other in recorded:
            if keep and other not in (UNKNOWN, self.provenance):
                raise InputError(
                    "{folder} holds masks that were made with other settings ({differences});"
                    " choose another --output, or predict them again without --skip_existing"
                    " or --share",
                    folder=self.folder,
                    differences=", ".join(_differences(other, self.provenance)),
                )
        if self.provenance not in recorded:
            self._write([*recorded, self.provenance])

    def add(self, result: FileResult) -> None:
        """Append a line to the journal."""
        if self._lines is None:
            self._lines = _open_journal(self.journal)
        self._lines.write(json.dumps(result.to_dict()).encode() + b"\n")

    def replace(self) -> None:
        """Record in prediction.json that this prediction has replaced all earlier masks."""
        if self.provenance is not None:
            self._write([self.provenance])

    def close(self) -> None:
        """Close the journal."""
        if self._lines is not None:
            self._lines.close()

    def _write(self, recorded: list[Provenance]) -> None:
        atomic_write_text(self.folder / RECORD, json.dumps(recorded, indent=1) + "\n")


def journal_path(folder: Path, part: str = "") -> Path:
    """The journal of an output folder, or that of one of several processes."""
    if part:
        return folder / f"prediction.{part}.jsonl"
    return folder / "prediction.jsonl"


def part_name(part: tuple[int, int]) -> str:
    """The part of the journal's name for part k of n; empty for a single process."""
    if part[1] == 1:
        return ""
    return f"{part[0]}-of-{part[1]}"


def journals_in(folder: Path) -> list[Path]:
    """The journals of an output folder, of all processes."""
    return sorted(folder.glob("prediction*.jsonl"))


def utc_time(seconds: float) -> str:
    """ISO 8601 of seconds since 1970, such as 2026-01-31T12:00:00.000+00:00."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a journal (`FileResult.to_dict`); one that was torn when its process was
    killed is left out.
    """
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield content


def _open_journal(path: Path) -> BinaryIO:
    """Open a journal, of which every write becomes a line at its end."""
    file = path.open("ab+", buffering=0)
    if file.tell() > 0:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":  # its process was killed while it wrote
            file.write(b"\n")
    return file


def _differences(one: Provenance, other: Provenance) -> list[str]:
    """Names of the entries in which two predictors differ."""
    if len(one) != len(other):
        return ["number of checkpoints"]
    names: list[str] = []
    for old, new in zip(one, other, strict=True):
        names += [name for name in new if old.get(name) != new[name]]
    return list(dict.fromkeys(names))
