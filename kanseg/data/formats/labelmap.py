"""Read labelmap.txt: the classes and colors of masks in exports of CVAT and Datumaro."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanseg.data.io.colors import Color, voc_palette
from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_text

LABELMAP = "labelmap.txt"
BACKGROUND, BLACK = "background", (0, 0, 0)
VOID_NAMES = ("ignored", "void")
VOID_COLOR = (224, 224, 192)
LINE = re.compile(r"\s*(?P<name>.+?)\s*:\s*(?P<color>[^:]*?)\s*:[^:]*:[^:]*")  # names may hold ":"
COLOR = re.compile(r"(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})")


def read_labelmap(root: Path, notes: list[str]) -> dict[str, Any] | None:
    """Read task, classes, palette and ignore_index from labelmap.txt; None without that file.

    Lines are `NAME:R,G,B:PARTS:ACTIONS`; if no line has a color, the classes have the colors of
    PASCAL VOC in the order of the lines. The background, which is named so or black, becomes the
    first class; it is added if it is missing.

    Args:
        root: folder of the file.
        notes: receives lines about decisions.

    Raises:
        InputError: lines of another form, two classes with the same name or color.
    """
    path = root / LABELMAP
    if not path.is_file():
        return None
    colors = _read_colors(path)
    ignored = None
    for name in list(colors):
        if name.lower() in VOID_NAMES and ignored is None:
            ignored = colors.pop(name)
    background = _find_background(colors)
    if background is None:
        background = BACKGROUND
        notes.append(
            translate(
                "{labelmap} has no background: black is added as background", labelmap=LABELMAP
            )
        )
    colors = {background: colors.get(background, BLACK)} | colors
    if len(colors) < 2:
        raise InputError("no class except the background", where=path)
    palette = list(colors.values())
    if ignored is None and VOID_COLOR not in palette:
        ignored = VOID_COLOR
    if ignored is not None:
        palette += [*voc_palette()[len(palette) : IGNORE_INDEX], ignored]
    notes.append(
        translate(
            "classes and colors are read from {labelmap}: {names}",
            labelmap=LABELMAP,
            names=", ".join(colors),
        )
    )
    task = "multiclass"
    if len(colors) == 2:
        task = "binary"
    return {
        "task": task,
        "classes": tuple(colors),
        "palette": tuple(palette),
        "ignore_index": IGNORE_INDEX,
    }


def _find_background(colors: dict[str, Color]) -> str | None:
    """Return the class with the name background, or else the first black class."""
    for name in colors:
        if name.lower() == BACKGROUND:
            return name
    for name, color in colors.items():
        if color == BLACK:
            return name
    return None


def _read_colors(path: Path) -> dict[str, Color]:
    """Return name -> color of all lines."""
    entries = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            entries.append(_parse_line(path, number, line))
    entries = _with_colors(path, entries)
    colors: dict[str, Color] = {}
    for name, color in entries:
        if name in colors:
            raise InputError("{name!r} is listed twice", name=name, where=path)
        for other, other_color in colors.items():
            if color == other_color:
                raise InputError(
                    "{other!r} and {name!r} have the same color {color}",
                    other=other,
                    name=name,
                    color=list(color),
                    where=path,
                )
        colors[name] = color
    return colors


def _parse_line(path: Path, number: int, line: str) -> tuple[str, Color | None]:
    """Return (name, color or None) of a line."""
    match, color = LINE.fullmatch(line), None
    if match is not None:
        if not match["color"]:
            return match["name"], None
        color = COLOR.fullmatch(match["color"])
    if color is None or max(map(int, color.groups())) > 255:
        raise InputError(
            "line {number}: expected NAME:RED,GREEN,BLUE:PARTS:ACTIONS with colors from 0 to"
            " 255, got {line!r:.80}",
            number=number,
            line=line,
            where=path,
        )
    red, green, blue = color.groups()
    return match["name"], (int(red), int(green), int(blue))


def _with_colors(
    path: Path, entries: Sequence[tuple[str, Color | None]]
) -> list[tuple[str, Color]]:
    """Return the entries; if no entry has a color, with the colors of PASCAL VOC."""
    without = [name for name, color in entries if color is None]
    if not without:
        return list(entries)
    if len(without) < len(entries):
        raise InputError(
            "{name!r} has no color, but others have one; add its color",
            name=without[0],
            where=path,
        )
    return list(zip(without, voc_palette(len(entries)), strict=True))
