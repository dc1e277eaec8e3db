"""The journal of a classification of files: a line for every image that is done, so that a killed
run continues, and parts that run as processes of their own are put together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanseg.utils.io import atomic_write_text

FOLDER = ".predictions"


@dataclass(frozen=True)
class Row:
    """An image that is done.

    Args:
        file: its path, as it was given.
        cells: of its row in the table, after the path.
        thumbnail: path below the output folder; None for none.
    """

    file: str
    cells: list[str]
    thumbnail: str | None


@dataclass
class Journal:
    """The content of a journal.

    Args:
        header: what it belongs to (`header_of`); empty if it cannot be read.
        rows: the images that are done, by path.
        complete: whether its part has ended.
    """

    header: dict[str, str]
    rows: dict[str, Row] = field(default_factory=dict)
    complete: bool = False


def header_of(provenance: Any, files: Sequence[str], *, thumbnails: bool) -> dict[str, str]:
    """Return digests of the networks with their options, and of the list of files of all parts.

    Args:
        provenance: as of `Classifier.provenance`.
        files: paths of all files.
        thumbnails: whether they are written.
    """
    networks = json.dumps([provenance, thumbnails])
    return {"networks": _digest([networks]), "files": _digest(files)}


def journal_path(output: Path, part: tuple[int, int]) -> Path:
    """Return the path of the journal of part k of n."""
    return output / FOLDER / f"{part[0]}_of_{part[1]}.jsonl"


def begin_journal(path: Path, header: Mapping[str, str], rows: Iterable[Row]) -> None:
    """Write a journal that holds the rows that are kept."""
    lines = [json.dumps(header), *(_line(row) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))


def add_rows(path: Path, rows: Iterable[Row]) -> None:
    """Append images to a journal."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write("".join(f"{_line(row)}\n" for row in rows))


def end_journal(path: Path) -> None:
    """Mark the part of a journal as complete."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"complete": true}\n')


def read_journal(path: Path) -> Journal:
    """Read a journal. A line that was cut off by a kill ends it; a file that is no journal has no
    header.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    journal = Journal({})
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            if number == 0:
                journal.header = {"networks": entry["networks"], "files": entry["files"]}
            elif isinstance(entry, dict):
                journal.complete = bool(entry["complete"])
            else:
                file, cells, thumbnail = entry
                journal.rows[file] = Row(file, cells, thumbnail)
        except (ValueError, TypeError, KeyError):
            break
    return journal


def journals_in(output: Path) -> list[Path]:
    """Return the paths of all journals in an output folder."""
    return sorted((output / FOLDER).glob("*_of_*.jsonl"))


def _line(row: Row) -> str:
    return json.dumps([row.file, row.cells, row.thumbnail])


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()
