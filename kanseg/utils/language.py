"""The language of pages (report.html, check.html, demos), figures and the check of a data set:
English, or Chinese.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from kanseg.utils.reading import read_yaml

CHINESE = Path(__file__).parent / "templates" / "zh.yaml"
LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")  # POSIX: the first that is set decides


def language() -> str:
    """Return "zh" if KANSEG_LANG, or without it the locale, begins with zh; else "en"."""
    for name in ("KANSEG_LANG", *LOCALE):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def translate(text: str, **values: object) -> str:
    """Return a text in the language of the user; without a translation it stays English.

    Args:
        text: English text, the key of its translation.
        values: what to insert for `{name}` in the text.
    """
    if language() == "zh":
        text = chinese_texts().get(text, text)
    return text.format(**values) if values else text


@cache
def chinese_texts() -> dict[str, str]:
    """Return English text -> Chinese text."""
    return read_yaml(CHINESE)
