"""Text tables: Markdown that is aligned on the screen too, plain columns, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from kanseg.utils.text import safe_cell


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> str:
    """A Markdown table. The first `text_columns` columns are aligned left, the others right."""
    widths = [max(3, width) for width in _column_widths([header, *rows])]
    lines = [f"| {' | '.join(_aligned(row, widths, text_columns))} |" for row in (header, *rows)]
    rules = []
    for column, width in enumerate(widths):
        end = "-" if column < text_columns else ":"
        rules.append("-" * (width + 1) + end)
    lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table for the terminal, its columns two spaces apart; aligned as in `markdown_table`."""
    widths = _column_widths([header, *rows])
    lines = ["  ".join(_aligned(row, widths, text_columns)).rstrip() for row in (header, *rows)]
    return "\n".join(lines)


def csv_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV table. Text that a spreadsheet would take for a formula is escaped (`safe_cell`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([safe_cell(cell) for cell in row])
    return text.getvalue()


def _column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]


def _aligned(row: Sequence[str], widths: Sequence[int], text_columns: int) -> list[str]:
    cells = []
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        is_text = column < text_columns
        cells.append(cell.ljust(width) if is_text else cell.rjust(width))
    return cells
