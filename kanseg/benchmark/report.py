"""Table cells for targets and whether they are met."""

from __future__ import annotations

from collections.abc import Sequence

from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest


def format_targets(values: Sequence[float | None]) -> str:
    """Format targets as `1.4 / 1.4 / 4`; a dash for None."""
    cells = []
    for value in values:
        if value is None:
            cells.append("-")
        else:
            cells.append(f"{value:.2g}" if value < 1 else f"{value:g}")
    return " / ".join(cells)


def is_met(values: Sequence[tuple[float, float | None, int]]) -> bool | None:
    """True if every number, rounded as it is printed, is at most its target; None without targets.

    Args:
        values: (number, target or None, digits after the point).
    """
    met = None
    for value, target, digits in values:
        if target is None:
            continue
        if not round(value, digits) <= target:  # also for NaN
            return False
        met = True
    return met


def yes_or_no(met: bool | None) -> str:
    """yes, no, or a dash without targets."""
    return {True: "yes", False: "no", None: "-"}[met]


def check_names(kind: str, known: Sequence[str], given: Sequence[str]) -> None:
    """InputError for the first given name that is unknown."""
    for name in given:
        if name not in known:
            raise InputError(
                f"unknown {kind} {name!r}{nearest(name, known)} (known:"
                f" {', '.join(dict.fromkeys(known))})"
            )
