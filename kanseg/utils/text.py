"""Names of files that come from elsewhere, made safe for a terminal and for tables."""

from __future__ import annotations

import unicodedata
from typing import TextIO

_KEPT = "\n\t\r"  # what a text of several lines is made of
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Characters of control (Cc), of direction and the like (Cf), line ends of Unicode (Zl, Zp), and
# halves of pairs (Cs), which stand for bytes of a name that is not UTF-8.
_HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs")
_JOINERS = "\u200c\u200d"  # without which some scripts and emoji cannot be written


def printable(text: object, *, line: bool = False) -> str:
    r"""The text without what a terminal would obey: an escape character becomes `\x1b`.

    Args:
        text: a message with names of files in it.
        line: whether it is one line, so that line ends in names are shown as `\n` too.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    kept = _JOINERS if line else _JOINERS + _KEPT
    return "".join(_shown(c) if _is_hidden(c) and c not in kept else c for c in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def _shown(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class PrintableStream:
    """A text stream that writes `printable` texts; in everything else the stream that it wraps."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without what a terminal would obey, and without what the stream's encoding
        lacks.
        """
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        self._stream.write(shown)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def safe_cell(value: object) -> object:
    """A value for a CSV table: of a text that a spreadsheet would take for a formula the apostrophe
    before it says that it is none (OWASP, CSV injection). Numbers stay as they are.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULAS):
        return value
    return f"'{value}" if not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
