"""Make names of files safe to print on a terminal and to write into tables."""

from __future__ import annotations

import unicodedata
from typing import TextIO

_KEPT = "\n\t\r"  # allowed in a text of several lines
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Unicode categories: control (Cc), format and direction (Cf), line ends (Zl, Zp), and surrogates
# (Cs), which Python uses for bytes of a name that is not UTF-8.
_HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs")
_JOINERS = "\u200c\u200d"  # needed by some scripts and emoji


def printable(text: object, *, line: bool = False) -> str:
    r"""Replace control characters by escapes, so that a terminal does not obey them: `\x1b`.

    Args:
        text: a message that contains names of files.
        line: True for a single line; then line ends in names become `\n` too.
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
    """A text stream that writes `printable` text; all else is that of the stream it wraps."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text with escapes for control characters, and for characters that the stream's
        encoding lacks.
        """
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        self._stream.write(shown)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write all lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def safe_cell(value: object) -> object:
    """A value for a CSV table. Text that a spreadsheet would take for a formula gets an apostrophe
    in front (OWASP, CSV injection); numbers stay as they are.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULAS) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
