"""Read files from elsewhere: only regular files are opened, and whatever a decoder raises becomes
an `InputError` that names the file.
"""

from __future__ import annotations

import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from kanseg.utils.errors import InputError

_MAX_MESSAGE = 200  # characters of a library's message that are shown
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# The errors below say what is wrong with a file, so the libraries need not. tifffile logs a line
# for each odd tag, which Python prints on stderr if there is no handler; PIL warns of them; OpenCV
# writes lines of its own unless its variable asks for another level.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
if "OPENCV_LOG_LEVEL" not in os.environ:
    # OpenCV 4 has the function in one place, OpenCV 5 in the other; 0 is silent
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_log_level(0)


@contextmanager
def decoder_errors(path: Path | str, where: str = "") -> Iterator[None]:
    """Turn whatever a decoder raises in the block into an InputError "damaged or truncated ...".

    This is the only broad `except` of the package. PIL, OpenCV, tifffile and imagecodecs raise what
    the damaged bytes lead them to (struct.error, KeyError, TypeError, AttributeError,
    ZeroDivisionError, RecursionError, MemoryError, ...), none of them documents a list, and one bad
    file must not end a folder of good ones. Only calls of such a library belong inside.

    Args:
        path: the file.
        where: the position in the file if it is known, for the message.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(
            f"{path}: needs more memory than available; it may be damaged, or too large"
        ) from None
    except Exception as error:
        # An error of the file system already says what it is.
        name = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        text = " ".join(str(error).split())[:_MAX_MESSAGE]
        raise InputError(
            f"{path}: the file is damaged or truncated{where}, or of a kind that is not supported"
            f" ({name}{text})"
        ) from None


def require_regular_file(path: Path | str) -> None:
    """Raise InputError for a file that is missing, empty or not a regular file, without opening it:
    opening a named pipe blocks, and a device never ends.
    """
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a loop of links, a name that no file can have
        raise InputError(f"{path}: no such file ({error})") from None
    for is_kind, kind in _KINDS:
        if is_kind(status.st_mode):
            raise InputError(f"{path}: is {kind}, not a regular file; move it away")
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty")
