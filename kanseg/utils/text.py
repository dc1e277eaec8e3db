"""Make error messages and file names safe to print on a terminal and to write into tables."""

from __future__ import annotations

import unicodedata
from typing import TextIO

_KEPT = "\n\t\r"  # allowed in a text of several lines
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Unicode categories: control (Cc), format and direction (Cf), line ends (Zl, Zp), and surrogates
# (Cs), which Python uses for bytes of a name that is not UTF-8.
_HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs")
_JOINERS = "\u200c\u200d"  # needed by some scripts and emoji


def one_line(error: object, limit: int | None = 300) -> str:
    """The message of an error on one line, at most `limit` characters; its class name if the
    message is empty.
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


def printable(text: object, *, line: bool = False) -> str:
    r"""Replace control characters by escapes such as `\x1b`, so that a terminal does not obey them.

    Args:
        text: a message that contains file names.
        line: escape line ends too, so that the text stays on one line.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    kept = _JOINERS if line else _JOINERS + _KEPT
    result = []
    for character in text:
        if unicodedata.category(character) in _HIDDEN and character not in kept:
            character = character.encode("unicode_escape", "surrogatepass").decode("ascii")
        result.append(character)
    return "".join(result)


def display_width(text: str) -> int:
    """Columns that a text takes on a terminal: two for a Chinese letter, none for an accent that
    is written over the letter before it (UAX #11).
    """
    width = 0
    for character in text:
        if unicodedata.combining(character):
            continue
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return width


class ReaderGoneError(BrokenPipeError):
    """The program that reads stdout has ended, as in `kanseg formats | head -1`."""


class PrintableStream:
    """Wrap a text stream and write only `printable` text to it; `ReaderGoneError` if nobody reads
    it any more.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text with escapes for control characters, and for characters that the stream's
        encoding lacks.
        """
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._stream.write(shown)
        except BrokenPipeError as error:
            raise ReaderGoneError(*error.args) from None
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError(*error.args) from None

    def writelines(self, lines: list[str]) -> None:
        """Write all lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def safe_cell(value: object) -> object:
    """Escape a value for a CSV table: text that a spreadsheet would run as a formula gets a leading
    apostrophe (OWASP, CSV injection). Numbers stay as they are.
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
