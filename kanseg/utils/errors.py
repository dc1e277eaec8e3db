"""Errors that the user can fix."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from kanseg.utils.command import with_command
from kanseg.utils.language import Text, translate
from kanseg.utils.text import PrintableStream, ReaderGoneError, printable


class InputError(ValueError):
    """A file, folder, config, checkpoint or option is invalid.

    The message says on one line what was expected, what was found, and how to fix it. The
    command-line tools print it without a traceback and exit with code 2.

    Args:
        text: the message in English, without the place; with values the key of its translation, in
            which `{name}` stands for a value.
        where: the place, with which the message begins: a file, or a setting.
        code: of the kind of problem, for programs.
        values: name -> value.

    Attributes:
        reason: the message in the language of the user, without the place.
    """

    def __init__(
        self, text: str = "", /, *, where: object = None, code: str = "", **values: object
    ):
        self.reason = text if isinstance(text, Text) else translate(text, **values)
        self.where, self.code = where, code
        super().__init__(self.reason if where is None else f"{where}: {self.reason}")


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run the `main` of a command-line tool and exit with the code that it returns.

    An `InputError` or `OSError` is printed on stderr without a traceback, and the exit code is 2;
    after Ctrl-C it is 130. If nobody reads stdout any more (`| head`), the tool ends quietly with
    141, as a shell reports SIGPIPE. Control characters in file names are printed as escapes, and a
    command `kanseg VERB` as this user would type it.
    """
    sys.stdout = PrintableStream(sys.stdout)
    interrupts = record_interrupts()
    try:
        try:
            status = main() or 0
        finally:  # also after --help, which raises SystemExit
            sys.stdout.flush()
    except ReaderGoneError:
        # The interpreter flushes stdout when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except KeyboardInterrupt as interrupt:
        status = report_interrupt(str(interrupt))
    except Exception as error:
        if interrupts:
            status = report_interrupt()
        elif isinstance(error, InputError):
            for line in with_command(str(error)).splitlines():
                sys.stderr.write(f"error: {printable(line)}\n")
            status = 2
        elif isinstance(error, OSError):
            sys.stderr.write(f"error: {printable(error, line=True)}\n")
            status = 2
        else:
            raise
    sys.exit(status)


def record_interrupts() -> list[int]:
    """Return a list to which each SIGINT (Ctrl-C) is appended before it raises KeyboardInterrupt.

    A module in C that is interrupted while it is imported raises an ImportError instead, which
    would read as a broken installation.
    """
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        interrupts.append(number)
        raise KeyboardInterrupt

    # A process in the background of a shell ignores SIGINT, and goes on doing so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return interrupts


def report_interrupt(message: str = "") -> int:
    """Report on stderr that the tool was interrupted; return its exit code."""
    reason = f": {message}" if message else ""
    sys.stderr.write(f"interrupted{reason}\n")
    return 130
