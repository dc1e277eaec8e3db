"""Errors that the user can fix."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from kanseg.utils.command import with_command
from kanseg.utils.text import PrintableStream, printable


class InputError(ValueError):
    """A file, folder, config, checkpoint or option is invalid.

    The message says on one line what was expected, what was found, and how to fix it. The
    command-line tools print it without a traceback and exit with code 2.
    """


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run the `main` of a command-line tool and exit with the code that it returns.

    An `InputError` or `OSError` is printed on stderr without a traceback, and the exit code is 2.
    Control characters in file names are printed as escapes, and a command
    `kanseg VERB` as this user would type it.
    """
    sys.stdout = PrintableStream(sys.stdout)
    try:
        status = main() or 0
    except InputError as error:
        for line in with_command(str(error)).splitlines():
            sys.stderr.write(f"error: {printable(line)}\n")
        status = 2
    except OSError as error:
        sys.stderr.write(f"error: {printable(error, line=True)}\n")
        status = 2
    except KeyboardInterrupt as interrupt:
        reason = f": {interrupt}" if str(interrupt) else ""
        sys.stderr.write(f"interrupted{reason}\n")
        status = 130
    sys.exit(status)
