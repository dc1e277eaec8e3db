"""labelmap.txt: classes and colors beside masks in PASCAL VOC's form, as CVAT and Datumaro write
it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kanseg.data.io.colors import Color, voc_palette
from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_text

LABELMAP = "labelmap.txt"
BACKGROUND, BLACK = "background", (0, 0, 0)
VOID_NAMES = ("ignored", "void")
VOID_COLOR = (224, 224, 192)


def read_labelmap(root: Path, notes: list[str]) -> dict[str, Any] | None:
    """task, classes, palette and ignore_index of labelmap.txt, lines `NAME:R,G,B:PARTS:ACTIONS`
    (all colors left out: those of PASCAL VOC in the order of the lines); None where there is no
    such file.

    The background, named so or black, comes first, and is added where it is missing.

    Raises:
        InputError: lines of another form, two classes of one name or color.
    """
    path = root / LABELMAP
    if not path.is_file():
        return None
    entries = [
        _entry(path, number, line)
        for number, line in enumerate(read_text(path).splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    colors = _colored(path, entries)
    void = next((name for name in colors if name.lower() in VOID_NAMES), None)
    ignored = None if void is None else colors.pop(void)
    first = next((name for name in colors if name.lower() == BACKGROUND), None)
    first = first or next((name for name, color in colors.items() if color == BLACK), None)
    if first is None:
        first = BACKGROUND
        notes.append(f"{LABELMAP} has no background: black is taken for it")
    colors = {first: colors.get(first, BLACK)} | colors
    if len(colors) < 2:
        raise InputError(f"{path}: no class but the background")
    palette = list(colors.values())
    if ignored is None and VOID_COLOR not in palette:
        ignored = VOID_COLOR
    if ignored is not None:
        palette += [*voc_palette()[len(palette) : IGNORE_INDEX], ignored]
    notes.append(f"classes and colors are those of {LABELMAP}: {', '.join(colors)}")
    return {
        "task": "binary" if len(colors) == 2 else "multiclass",
        "classes": tuple(colors),
        "palette": tuple(palette),
        "ignore_index": IGNORE_INDEX,
    }


def _entry(path: Path, number: int, line: str) -> tuple[str, Color | None]:
    """(name, color or None) of a line; names may hold colons."""
    match = re.fullmatch(r"\s*(.+?)\s*:\s*([^:]*?)\s*:[^:]*:[^:]*", line)
    channels = [] if match is None else re.findall(r"\d+", match[2])
    plain = match is not None and re.fullmatch(r"(\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3})?", match[2])
    if not plain or any(int(value) > 255 for value in channels):
        raise InputError(
            f"{path}, line {number}: expected NAME:RED,GREEN,BLUE:PARTS:ACTIONS with colors from 0"
            f" to 255, got {line!r:.80}"
        )
    red_green_blue = tuple(int(value) for value in channels)
    return match[1], red_green_blue or None


def _colored(path: Path, entries: list[tuple[str, Color | None]]) -> dict[str, Color]:
    """Name -> color."""
    without = [name for name, color in entries if color is None]
    if without and len(without) < len(entries):
        raise InputError(f"{path}: {without[0]!r} has no color, and others have; give it one")
    if without:
        palette = voc_palette(len(entries))
        entries = [(name, palette[place]) for place, (name, _) in enumerate(entries)]
    colors: dict[str, Color] = {}
    for name, color in entries:
        if name in colors:
            raise InputError(f"{path}: {name!r} is listed twice")
        if color in colors.values():
            other = next(known for known in colors if colors[known] == color)
            raise InputError(f"{path}: {other!r} and {name!r} have the same color {list(color)}")
        colors[name] = color
    return colors
