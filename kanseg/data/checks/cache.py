"""What was found in files that have not changed since, kept outside the data folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanseg.utils.io import atomic_write_text

VERSION = 2  # to be raised with every change in what is looked at, or in how images are read
MOST_OTHERS = 20_000  # entries kept that this run had no use for
MOST_FILES = 64  # data sets kept


def cache_folder() -> Path:
    """Where the checks are kept: KANSEG_CACHE, or kanseg/checks in the user's folder for caches."""
    if os.environ.get("KANSEG_CACHE"):
        return Path(os.environ["KANSEG_CACHE"]) / "checks"
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "kanseg" / "checks"
    places = {
        "win32": Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local"),
        "darwin": Path("~/Library/Caches"),
    }
    return Path(os.path.expanduser(places.get(sys.platform, "~/.cache"))) / "kanseg" / "checks"  # noqa: PTH111 - without a home it stays as it is


class Cache:
    """Facts by file, valid while size and time of the file are the same. One JSON file a data set.

    Args:
        root: of the data set.
        read: whether what an earlier run found is used.

    A cache that cannot be read is empty, and one that cannot be written is not kept: neither is a
    fault.
    """

    def __init__(self, root: Path, *, read: bool = True):
        self.root = root.resolve()
        self.path = (
            cache_folder() / f"{hashlib.sha256(str(self.root).encode()).hexdigest()[:32]}.json"
        )
        self._old = self._read() if read else {}
        self._used: dict[str, list[Any]] = {}
        self._changed = False

    def get(self, key: str, stamp: Sequence[Any]) -> dict[str, Any] | None:
        """The facts stored under the key for files of this stamp, or None."""
        entry = self._old.get(key)
        if (
            not isinstance(entry, list)
            or len(entry) != 2
            or entry[0] != list(stamp)
            or not isinstance(entry[1], dict)
        ):
            return None
        self._used[key] = entry
        return entry[1]

    def put(self, key: str, stamp: Sequence[Any], facts: dict[str, Any]) -> None:
        """Keep facts, until `save` in memory only."""
        self._used[key] = [list(stamp), facts]
        self._changed = True

    def save(self) -> None:
        """Write to a temporary file and rename it, with what another process may have stored
        meanwhile.
        """
        if not self._changed or self.path.resolve().is_relative_to(
            self.root
        ):  # nothing is ever written into a data folder
            return
        others = {
            key: entry for key, entry in (self._old | self._read()).items() if key not in self._used
        }
        kept = dict(list(others.items())[-MOST_OTHERS:]) | self._used
        text = json.dumps(
            {"version": VERSION, "root": str(self.root), "files": kept}, separators=(",", ":")
        )
        with contextlib.suppress(OSError):
            atomic_write_text(self.path, text)
            self._forget_old_sets()
        self._changed = False

    def _read(self) -> dict[str, list[Any]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        fits = (
            isinstance(content, dict)
            and content.get("version") == VERSION
            and isinstance(content.get("files"), dict)
        )
        return content["files"] if fits else {}

    def _forget_old_sets(self) -> None:
        files = sorted(self.path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST_FILES]:
            path.unlink(missing_ok=True)
