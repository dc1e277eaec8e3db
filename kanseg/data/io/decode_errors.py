"""Handle untrusted files: refuse anything except regular files, and convert the exceptions of
decoders to an `InputError` that names the file.
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
from kanseg.utils.installation import install
from kanseg.utils.language import translate
from kanseg.utils.text import one_line

_MAX_MESSAGE = 200  # characters of a library's message that are shown
NOT_REGULAR = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# The errors below describe what is wrong with a file, so the messages of the libraries are hidden:
# tifffile logs each odd tag, which Python prints on stderr if there is no handler; PIL warns of
# them; OpenCV prints lines unless the environment variable sets another level.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
if "OPENCV_LOG_LEVEL" not in os.environ:
    # OpenCV 4 and OpenCV 5 have the function in different modules; 0 is silent
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_log_level(0)


@contextmanager
def decoder_errors(path: Path | str, where: str = "") -> Iterator[None]:
    """Convert any exception of a decoder in the block to an InputError "damaged or truncated ...",
    or one that names the extra which reads such a file.

    The `except` is broad because PIL, OpenCV, tifffile and imagecodecs raise many undocumented
    exceptions for damaged bytes (struct.error, KeyError, TypeError, AttributeError,
    ZeroDivisionError, RecursionError, MemoryError, ...), and one bad file must not stop the
    processing of a folder. Only call such a library inside the block.

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
            "needs more memory than available; it may be damaged, or too large",
            where=path,
            code="too_large",
        ) from None
    except Exception as error:
        text = one_line(error, _MAX_MESSAGE)
        if (
            "imagecodecs" in text
        ):  # tifffile: <COMPRESSION.LZW: 5> requires the 'imagecodecs' package
            raise InputError(
                "the TIFF file is compressed in a way that needs the package imagecodecs"
                " ({reason}): {command}",
                reason=text,
                command=install("tiff"),
                where=path,
            ) from None
        if not isinstance(error, OSError):  # those of the file system are clear without the type
            text = f"{type(error).__name__}: {text}"
        raise InputError(
            "the file is damaged or truncated{place}, or of a kind that is not supported"
            " ({reason})",
            place=where,
            reason=text,
            where=path,
            code="truncated",
        ) from None


def require_regular_file(path: Path | str) -> None:
    """Raise InputError for a file that is missing, empty or not a regular file. The file is not
    opened: opening a named pipe blocks, and reading a device never ends.
    """
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise InputError("no such file", where=path, code="missing") from None
    except (OSError, ValueError) as error:  # a loop of links, a name that no file can have
        raise InputError(
            "no such file ({reason})", reason=error, where=path, code="missing"
        ) from None
    for is_kind, kind in NOT_REGULAR:
        if is_kind(status.st_mode):
            raise InputError(
                "is {kind}, not a regular file; move it away",
                kind=translate(kind),
                where=path,
                code="unreadable",
            )
    if status.st_size == 0:
        raise InputError("the file is empty", where=path, code="empty_file")
