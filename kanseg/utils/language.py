"""The language of pages (report.html, check.html, demos), figures and the check of a data set:
English, or Chinese.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

CHINESE = Path(__file__).parent / "templates" / "zh.yaml"
LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")  # POSIX: the first that is set decides


def language() -> str:
    """Return "zh" if KANSEG_LANG, or without it the locale, begins with zh; else "en"."""
    for name in ("KANSEG_LANG", *LOCALE):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


class Text(str):
    """A text in the language of the user, and what it was made from.

    Attributes:
        english: with `{name}` for values.
        values: name -> value.
    """

    english: str
    values: dict[str, object]


def translate(english: str, /, **values: object) -> Text:
    """Return a text in the language of the user; without a translation it stays English.

    Args:
        english: English text, the key of its translation.
        values: what to insert for `{name}` in the text; the parts of a tuple are listed.
    """
    text = english
    if language() == "zh":
        text = chinese_texts().get(english, english)
    if values:
        text = text.format(**{name: _listed(value) for name, value in values.items()})
    result = Text(text)
    result.english, result.values = english, values
    return result


def join_texts(texts: Sequence[str], join: Callable[[list[object]], str]) -> str:
    """Return texts that differ only in their values as one text with all values.

    Args:
        texts: equal, or made by `translate` from the same English text.
        join: returns several values as text: ["a", "b"] -> "a, b".
    """
    different = list({str(text): text for text in texts if text}.values())
    if len(different) == 1:
        return different[0]
    if len({getattr(text, "english", None) for text in different}) > 1 or not different:
        return join(different)
    values = {}
    for name in different[0].values:
        each = [text.values[name] for text in different]
        if isinstance(each[0], tuple):
            values[name] = join(list(dict.fromkeys(part for parts in each for part in parts)))
        elif any(isinstance(value, str) for value in each):
            values[name] = join_texts(each, join)
        else:
            values[name] = join(list(dict.fromkeys(map(str, each))))
    return translate(different[0].english, **values)


def _listed(value: object) -> object:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value


@cache
def chinese_texts() -> dict[str, str]:
    """Return English text -> Chinese text."""
    from kanseg.utils.reading import read_yaml  # which translates its errors

    return read_yaml(CHINESE)
