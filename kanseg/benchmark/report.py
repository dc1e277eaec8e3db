"""Cells that say whether a limit is met, and names that are not known."""

from __future__ import annotations

from collections.abc import Sequence

from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest


def limits(values: Sequence[float | None]) -> str:
    """What is to be reached, `1.4 / 1.4 / 4`; a dash where nothing is stated."""
    return " / ".join(
        "-" if value is None else f"{value:.2g}" if value < 1 else f"{value:g}" for value in values
    )


def is_met(values: Sequence[tuple[float, float | None, int]]) -> bool | None:
    """Whether every figure, rounded to so many digits as it is printed, is within its limit; None
    where no limit is stated.
    """
    stated = [round(value, digits) <= limit for value, limit, digits in values if limit is not None]
    return all(stated) if stated else None


def answer(met: bool | None) -> str:
    """The same as a cell of a table."""
    return {True: "yes", False: "no", None: "-"}[met]


def check_names(kind: str, known: Sequence[str], given: Sequence[str]) -> None:
    """InputError for the first of the given names that is not known."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(
            f"unknown {kind} {unknown[0]!r}{nearest(unknown[0], known)} (known:"
            f" {', '.join(dict.fromkeys(known))})"
        )
