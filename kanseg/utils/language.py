"""The language of pages (report.html, check.html, demos), figures, the check of a data set, and
what a training says: English, or Chinese.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

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


def text_to_json(text: str) -> list[Any]:
    """Return what `text_from_json` makes the text from, in the language of whoever reads it."""
    values = {}
    for name, value in getattr(text, "values", {}).items():
        if isinstance(value, Text):
            value = text_to_json(value)
        elif not isinstance(value, (int, float)):
            value = str(value)
        values[name] = value
    return [getattr(text, "english", str(text)), values]


def text_from_json(content: Sequence[Any]) -> Text:
    """Return the text of `text_to_json`."""
    values = {}
    for name, value in content[1].items():
        values[name] = text_from_json(value) if isinstance(value, list) else value
    return translate(content[0], **values)


def _listed(value: object) -> object:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value


@cache
def chinese_texts() -> dict[str, str]:
    """Return English text -> Chinese text."""
    import yaml

    # Our own file: without the checks of `kanseg.utils.reading`, and 20 times faster in C.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(CHINESE.read_text(encoding="utf-8"), Loader=loader)
