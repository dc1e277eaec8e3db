"""Names become objects here, once, at the edge of the library."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'gram'?"` for the closest of the known names, or an empty string."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


class Registry(Generic[T]):
    """A dictionary of named objects whose look-up error lists what it knows.

    Args:
        kind: what the objects are, for error messages ("basis", "model", ...).
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._objects: dict[str, T] = {}

    def register(self, name: str):
        """Decorator: file the object under `name`; a name can be taken once (ValueError)."""

        def file(thing: T) -> T:
            if name in self._objects:
                raise ValueError(
                    f"{self.kind} {name!r} is registered already, by {self._objects[name]!r}"
                )
            self._objects[name] = thing
            return thing

        return file

    def __getitem__(self, name: str) -> T:
        if name not in self._objects:
            known = ", ".join(self._objects)
            raise ValueError(
                f"unknown {self.kind} {name!r}{nearest(name, self._objects)} (known: {known})"
            )
        return self._objects[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __contains__(self, name: object) -> bool:
        return name in self._objects
