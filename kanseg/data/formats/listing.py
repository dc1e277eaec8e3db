"""Which image files lie in a folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.data.splits import nfc
from kanseg.utils.errors import InputError

_LITTER = (".db", ".ini", ".txt", ".md")  # what file managers and people leave beside images


def index_images(folder: Path, notes: list[str] | None = None) -> dict[str, Path]:
    """Stem (Unicode NFC) -> file of all images in a folder, hidden files left out; files in other
    formats go into notes.

    Raises:
        InputError: two files of one stem.
    """
    found: dict[str, Path] = {}
    others: Counter = Counter()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            others["folders" if path.is_dir() else path.suffix.lower() or path.name] += (
                path.suffix.lower() not in _LITTER
            )
            continue
        stem = nfc(path.stem)
        if stem in found:
            raise InputError(
                f"{folder}: {found[stem].name} and {path.name} have the same stem; rename one"
            )
        found[stem] = path
    left = ", ".join(f"{count} {kind}" for kind, count in others.items() if count)
    if left and found and notes is not None:
        notes.append(
            f"{folder}: left out what is no image that can be read: {left} (read:"
            f" {', '.join(s[1:] for s in IMAGE_SUFFIXES)})"
        )
    return found


def some_images(folder: Path, notes: list[str]) -> dict[str, Path]:
    """The same for a folder in which there must be some.

    Raises:
        InputError: none; the message names what lies there instead.
    """
    images = index_images(folder, notes)
    if images:
        return images
    inside = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    there = (
        f", only {', '.join(inside[:3])}{', ...' if len(inside) > 3 else ''}; images must lie in"
        " it directly"
        if inside
        else ""
    )
    raise InputError(
        f"{folder}: no images ({', '.join(s[1:] for s in IMAGE_SUFFIXES)}) in this folder{there}"
    )
