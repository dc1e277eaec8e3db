"""Cache of the facts about unchanged files, outside the data folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanseg.utils.io import atomic_write_text, user_cache_folder

VERSION = 3  # raise it whenever the facts or the reading of images change
MAX_UNUSED = 20_000  # entries to keep that this run did not use
MAX_DATA_SETS = 64


def cache_folder() -> Path:
    """Return the folder of the cache: in KANSEG_CACHE, or in the user's cache folder."""
    return user_cache_folder("checks")


class Cache:
    """Facts about files, valid as long as the size and time of a file stay the same. One JSON file
    per data set.

    A cache that cannot be read is empty, and a cache that cannot be written is not stored; neither
    is an error.

    Args:
        root: of the data set.
        read: whether to use the facts of earlier runs.
    """

    def __init__(self, root: Path, *, read: bool = True):
        self.root = root.resolve()
        name = hashlib.sha256(str(self.root).encode()).hexdigest()[:32]
        self.path = cache_folder() / f"{name}.json"
        self._old: dict[str, list[Any]] = {}
        if read:
            self._old = self._read()
        self._used: dict[str, list[Any]] = {}
        self._changed = False

    def get(self, key: str, stamp: Sequence[Any]) -> dict[str, Any] | None:
        """Return the facts that are stored under a key for files with this stamp, or None."""
        entry = self._old.get(key)
        if not isinstance(entry, list) or len(entry) != 2 or entry[0] != list(stamp):
            return None
        if not isinstance(entry[1], dict):
            return None
        self._used[key] = entry
        return entry[1]

    def put(self, key: str, stamp: Sequence[Any], facts: dict[str, Any]) -> None:
        """Keep facts in memory until `save`."""
        self._used[key] = [list(stamp), facts]
        self._changed = True

    def save(self) -> None:
        """Write the cache atomically, and keep the facts that another process has stored meanwhile.
        Nothing is ever written into a data folder.
        """
        if not self._changed or self.path.resolve().is_relative_to(self.root):
            return
        stored = self._old | self._read()
        unused = [(key, entry) for key, entry in stored.items() if key not in self._used]
        files = dict(unused[-MAX_UNUSED:]) | self._used
        content = {"version": VERSION, "root": str(self.root), "files": files}
        with contextlib.suppress(OSError):
            atomic_write_text(self.path, json.dumps(content, separators=(",", ":")))
            caches = sorted(self.path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for path in caches[:-MAX_DATA_SETS]:
                path.unlink(missing_ok=True)
        self._changed = False

    def _read(self) -> dict[str, list[Any]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(content, dict) or content.get("version") != VERSION:
            return {}
        files = content.get("files")
        if not isinstance(files, dict):
            return {}
        return files
