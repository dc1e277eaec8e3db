"""Format text tables: Markdown, plain columns for the terminal, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from kanseg.utils.text import display_width, safe_cell


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> str:
    """Format a Markdown table. The first `text_columns` columns are aligned left, the others right.

    The cells are padded, so that the table can be read on a terminal too.
    """
    first, *others = _padded([header, *rows], text_columns, min_width=3)
    rules = []
    for column, cell in enumerate(first):
        end = "-" if column < text_columns else ":"
        rules.append("-" * (display_width(cell) + 1) + end)
    lines = [f"| {' | '.join(first)} |", f"|{'|'.join(rules)}|"]
    for cells in others:
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Format a table for the terminal, with two spaces between columns, aligned as in
    `markdown_table`.
    """
    lines = []
    for cells in _padded([header, *rows], text_columns):
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def csv_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a CSV table. Text that a spreadsheet would run as a formula is escaped.

    A table with letters beyond ASCII begins with a byte order mark, without which Excel takes UTF-8
    for the encoding of the country. pandas skips it; Python's csv needs encoding="utf-8-sig", which
    reads tables without it as well.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([safe_cell(cell) for cell in row])
    table = text.getvalue()
    if table.isascii():
        return table
    return f"\ufeff{table}"


def _padded(
    rows: Sequence[Sequence[str]], text_columns: int, min_width: int = 0
) -> list[tuple[str, ...]]:
    """Pad the cells of each column to one width on a terminal."""
    columns = []
    for number, cells in enumerate(zip(*rows, strict=True)):
        width = max(min_width, *map(display_width, cells))
        padded = []
        for cell in cells:
            spaces = " " * (width - display_width(cell))
            padded.append(cell + spaces if number < text_columns else spaces + cell)
        columns.append(padded)
    return list(zip(*columns, strict=True))
