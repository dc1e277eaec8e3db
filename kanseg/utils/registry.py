"""Registries map names to objects, such as "gram" to a basis."""

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
    """A dictionary of named objects; an unknown name raises an error that lists the known ones.

    Args:
        kind: "basis", "model", ..., for error messages.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._objects: dict[str, T] = {}

    def register(self, name: str):
        """Decorator that adds an object under `name`; ValueError if the name is taken."""

        def add(thing: T) -> T:
            if name in self._objects:
                raise ValueError(
                    f"{self.kind} {name!r} is registered already, by {self._objects[name]!r}"
                )
            self._objects[name] = thing
            return thing

        return add

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
