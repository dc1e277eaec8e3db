"""The error that a user can mend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from kanseg.utils.text import PrintableStream, printable


class InputError(ValueError):
    """Something given to kanseg is wrong: a file, a folder, a config, a checkpoint.

    The message says what was expected, what came and the cure, in one line. The command-line tools
    print it without a traceback and exit with code 2.
    """


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run a command-line tool: an InputError, or a file system that refuses, becomes one line a
    fault on stderr and exit code 2.

    Names of files can hold codes that a terminal obeys; what a tool prints shows them as text.
    """
    sys.stdout = PrintableStream(sys.stdout)
    try:
        status = main() or 0
    except InputError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"error: {printable(line)}\n")
        status = 2
    except OSError as error:
        sys.stderr.write(f"error: {printable(error, line=True)}\n")
        status = 2
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"interrupted: {stop}\n" if str(stop) else "interrupted\n")
        status = 130
    sys.exit(status)
