"""Turn the scores of a split into table cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kanseg.utils.language import translate

PIXEL_COUNTS = ("pixels", "support")  # shown as a share of the set too
COUNTS = (*PIXEL_COUNTS, "absent", "predicted")
PER_IMAGE = " per image"  # suffix of the name of a mean of the images' scores
READABLE = {
    "iou": "IoU",
    "dice": "Dice",
    "f1": "F1",
    "auc": "AUC",
    "ovr": "(one class against the rest)",
    "ovo": "(pairs of classes)",
    "hd": "HD",
    "hd95": "HD95",
    "assd": "ASSD",
    "nsd": "NSD",
    "ece": "ECE",
    "brier": "Brier score",
    "cpu": "CPU",
    "absent": "absent in (images)",
}


@dataclass(frozen=True)
class Cell:
    """A number as text. The bar of a share is `share` percent long."""

    text: str
    share: int | None = None


@dataclass(frozen=True)
class ScoreTables:
    """The scores of a split.

    Args:
        header: column names of the class table.
        classes: name of a class -> its cells.
        means: (name, value) of all other scores.
    """

    header: list[str]
    classes: dict[str, list[Cell]]
    means: list[tuple[str, str]]


def score_tables(scores: Mapping[str, Any]) -> ScoreTables:
    """Make a table of the classes and one of the means.

    Scores under "per_image" get columns of their own, `IoU per image`. Lists, such as a confusion
    matrix, are left out.
    """
    per_image = scores.get("per_image", {})
    classes: dict[str, dict[str, Any]] = {}
    for label, values in scores.get("classes", {}).items():
        classes[label] = flatten(values)
    for label, values in per_image.get("classes", {}).items():
        row = classes.setdefault(label, {})
        for name, value in flatten(values).items():
            row[f"{name}{PER_IMAGE}"] = value

    means = []
    for name, value in flatten(scores).items():
        if name == "absent":  # of a classification
            means.append((translate("classes without images"), format_value(value)))
        elif not name.startswith(("classes", "per_image")):
            means.append((readable_name(name), format_value(value)))
    for name, value in flatten(per_image).items():
        if not name.startswith("classes"):
            means.append((readable_name(f"{name}{PER_IMAGE}"), format_value(value)))
    header, cells = _class_table(classes)
    return ScoreTables(header, cells, means)


def _class_table(
    classes: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], dict[str, list[Cell]]]:
    """Header and cells: a row for each class, a column for each score."""
    columns: dict[str, None] = {}
    for row in classes.values():
        columns |= dict.fromkeys(row)
    counted = next((name for name in PIXEL_COUNTS if name in columns), "")
    total = sum(row.get(counted) or 0 for row in classes.values())

    header = [translate("class"), *map(readable_name, columns)]
    if total:
        header.insert(1, translate("share of the set"))
    table = {}
    for label, row in classes.items():
        cells = []
        if total:
            share = (row.get(counted) or 0) / total
            cells.append(Cell(f"{share:.2%}", round(100 * share)))
        for name in columns:
            value, percent = row.get(name), None
            if isinstance(value, float) and 0 <= value <= 1 and name not in COUNTS:
                percent = round(100 * value)
            cells.append(Cell(format_value(value), percent))
        table[str(label)] = cells
    return header, table


def format_value(value: Any) -> str:
    """Format a value: 4 decimals up to 1, 4 digits up to 1000, thousands separators above, and a
    dash for undefined values.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{round(value):,}"
    if abs(value) <= 1:
        return f"{value:.4f}"
    return f"{value:.4g}"


def readable_name(name: str) -> str:
    """The name of a score for people: mean_iou -> mean IoU."""
    if name.endswith(PER_IMAGE):
        return translate("{score} per image", score=readable_name(name.removesuffix(PER_IMAGE)))
    parts = []
    for part in name.split("."):
        words = [READABLE.get(word, word) for word in part.split("_")]
        parts.append(translate(" ".join(words)))
    return translate(", ").join(parts)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> value of everything in nested mappings; lists are left out."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            for inner, each in flatten(value).items():
                flat[f"{name}.{inner}"] = each
        elif not isinstance(value, (list, tuple)):
            flat[str(name)] = value
    return flat
