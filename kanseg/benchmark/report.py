"""Cells of the tables: targets, and whether they are met."""

from __future__ import annotations

from collections.abc import Sequence

from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest


def limits(values: Sequence[float | None]) -> str:
    """The targets, `1.4 / 1.4 / 4`; a dash for None."""
    cells = []
    for value in values:
        if value is None:
            cells.append("-")
        else:
            cells.append(f"{value:.2g}" if value < 1 else f"{value:g}")
    return " / ".join(cells)


def is_met(values: Sequence[tuple[float, float | None, int]]) -> bool | None:
    """True if every number, rounded as it is printed, is within its limit; None without limits.

    Args:
        values: (number, limit or None, digits after the point).
    """
    met = [round(value, digits) <= limit for value, limit, digits in values if limit is not None]
    return all(met) if met else None


def answer(met: bool | None) -> str:
    """yes, no, or a dash without limits."""
    return {True: "yes", False: "no", None: "-"}[met]


def check_names(kind: str, known: Sequence[str], given: Sequence[str]) -> None:
    """InputError for the first given name that is unknown."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(
            f"unknown {kind} {unknown[0]!r}{nearest(unknown[0], known)} (known:"
            f" {', '.join(dict.fromkeys(known))})"
        )
