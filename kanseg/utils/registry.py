"""Registries map names to objects, such as "gram" to a basis."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from kanseg.utils.language import translate

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is closest, `"; did you mean 'gram'?"`; empty if none is.

    It is in the language of the user.
    """
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    if not matches:
        return ""
    return translate("; did you mean {name}?", name=repr(matches[0]))


class Registry(Generic[T]):
    """A dictionary of named objects. An unknown name raises ValueError with the known names.

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
