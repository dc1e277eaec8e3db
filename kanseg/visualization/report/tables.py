"""Scores, whatever keys they have, as tables of HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

OF_CLASSES = "classes"  # the key under which each class has its scores
COUNTS = ("pixels", "absent", "support", "predicted")


def scores_as_html(scores: Mapping[str, Any]) -> str:
    """All numbers of a set's scores: a table of the classes, with what is under "per_image" beside
    it, and one of the means.

    Nested scores get a table each; lists, such as a confusion matrix, are left to the images.
    """
    single = scores.get("per_image", {})
    rows = {label: dict(_flat(values)) for label, values in scores.get(OF_CLASSES, {}).items()}
    for label, values in single.get(OF_CLASSES, {}).items():
        rows.setdefault(label, {}).update(
            {f"{name} per image": value for name, value in _flat(values)}
        )
    parts = [_class_table(rows)] if rows else []
    means = [
        (name, value)
        for name, value in _flat(scores)
        if not name.startswith((OF_CLASSES, "per_image"))
    ]
    means += [
        (f"{name} per image", value)
        for name, value in _flat(single)
        if not name.startswith(OF_CLASSES)
    ]
    return "\n".join(
        [
            *parts,
            "<h3>Over the set, and means of the images</h3>",
            table(("", ""), [(escape(words(name)), shown(value)) for name, value in means]),
        ]
    )


def _class_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a class, a column a score; shares have a bar behind them, and `pixels` or `support` is
    shown as a share of the set too.
    """
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    counted = next((name for name in ("pixels", "support") if name in columns), None)
    total = sum(row.get(counted) or 0 for row in rows.values()) if counted else 0
    header = ["class", *(["share of the set"] if total else []), *map(words, columns)]
    lines = []
    for label, row in rows.items():
        share = [_bar((row.get(counted) or 0) / total, "percent")] if total else []
        lines.append(
            [
                f"<td>{escape(str(label))}</td>",
                *share,
                *(_cell(name, row.get(name)) for name in columns),
            ]
        )
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}\n</table></div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; an empty header is left out."""
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in header)}</tr>\n" if any(header) else ""
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{head}{body}</table></div>'


def shown(value: Any) -> str:
    """A value as text: shares with four decimals, other numbers with four digits, thousands apart,
    a dash for what is not defined.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return escape(str(value))
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{round(value):,}"
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:.4g}"


def words(name: str) -> str:
    """The name of a score as it is read: mean_iou -> mean IoU."""
    spoken = {"iou": "IoU", "hd95": "HD95", "nsd": "NSD", "absent": "absent in (images)"}
    return " ".join(
        spoken.get(word, word) for word in name.replace("_", " ").replace(".", ", ").split(" ")
    )


def _cell(name: str, value: Any) -> str:
    share = isinstance(value, float) and 0 <= value <= 1 and name not in COUNTS
    return _bar(value, "score") if share else f"<td>{shown(value)}</td>"


def _bar(value: float, kind: str) -> str:
    text = f"{100 * value:.2f}%" if kind == "percent" else shown(value)
    return f'<td class="bar" style="background-size:{100 * value:.0f}% 100%">{text}</td>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted name and value of every number, also in nested mappings; lists are left out."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, (list, tuple)):
            found.append((prefix + str(name), value))
    return found
