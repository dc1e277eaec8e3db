"""Names of files, samples and classes: compare, sort and list them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from kanseg.utils.language import Text, translate

SHOWN = 5  # names that `few` lists


def nfc(text: str) -> str:
    """Return the text with composed letters, so that names from other systems compare equal."""
    return unicodedata.normalize("NFC", text)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that compares numbers in names as numbers: class_2 before class_10."""
    key = []
    for position, part in enumerate(re.split(r"([0-9]+)", name)):
        if position % 2:  # between the texts that it separates, re.split returns the numbers
            key.append((1, int(part), ""))
        else:
            key.append((0, 0, part))
    return key


def few(names: Iterable[object]) -> str:
    """Return the first names and their number: `a, b, c, d, e, ... (12 in all)`."""
    texts = [str(name) for name in names]
    if len(texts) <= SHOWN:
        return ", ".join(texts)
    shown = ", ".join(texts[:SHOWN])
    return translate("{names}, ... ({count} in all)", names=shown, count=len(texts))


def join_texts(texts: Sequence[str]) -> str:
    """Return texts that differ only in their values (`translate`) as one text with all values:
    numbers as a range, names as `few` lists them.
    """
    different = list({str(text): text for text in texts if text}.values())
    if len(different) < 2:
        return different[0] if different else ""
    if len({getattr(text, "english", text) for text in different}) > 1:
        return few(different)
    values = {}
    for name in different[0].values:
        values[name] = _join_values([text.values[name] for text in different])
    return translate(different[0].english, **values)


def _join_values(values: Sequence[object]) -> object:
    if isinstance(values[0], tuple):
        return few(sorted({str(part) for parts in values for part in parts}, key=natural_key))
    if all(isinstance(value, int) for value in values):
        low, high = min(values), max(values)
        return low if low == high else translate("{low} to {high}", low=low, high=high)
    return join_texts([value if isinstance(value, Text) else str(value) for value in values])


def shorten(values: Sequence[object]) -> str:
    """Join values by commas; of more than eight, the first five and the last."""
    texts = [str(value) for value in values]
    if len(texts) > 8:
        texts = [*texts[:5], "...", texts[-1]]
    return ", ".join(texts)
