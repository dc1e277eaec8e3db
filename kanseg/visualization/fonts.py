"""Fonts for text on images: DejaVu Sans, which comes with matplotlib, or an installed font that has
Chinese, Japanese and Korean letters.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import ImageFont

from kanseg.utils.language import translate

DEFAULT = "DejaVu Sans"
# Families with Chinese letters, by the names that systems give them.
CHINESE = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)


@cache
def families() -> list[str]:
    """Font families for matplotlib, which takes each letter from the first one that has it."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    installed = set(fontManager.get_font_names())
    if installed.isdisjoint(CHINESE):
        # matplotlib keeps its list of fonts in a file: one may have been installed since.
        listed = {font.fname for font in fontManager.ttflist}
        for path in sorted(set(findSystemFonts()) - listed):
            with suppress(OSError, RuntimeError):  # a damaged font
                fontManager.addfont(path)
        installed = set(fontManager.get_font_names())
    return [DEFAULT, *(name for name in CHINESE if name in installed)]


def figure_text(text: str, **values: object) -> str:
    """Translate a text of a figure as `translate` does, if a font has its letters; otherwise it
    stays English.
    """
    if len(families()) > 1:
        return translate(text, **values)
    return text.format(**values) if values else text


def font_for(text: str, size: int = 14) -> ImageFont.FreeTypeFont:
    """The first font that has all letters of the text. If none has, DejaVu Sans, which draws a box
    for each missing letter.
    """
    if text.isascii():
        return _font(DEFAULT, size)
    needed = set(map(ord, text))
    for name in families():
        if needed <= _letters(name):
            return _font(name, size)
    return _font(DEFAULT, size)


@cache
def _font(family: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_path(family)), size)


@cache
def _letters(family: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(str(_path(family))).get_charmap())


def _path(family: str) -> Path:
    import matplotlib
    from matplotlib.font_manager import findfont

    if family == DEFAULT:
        return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return Path(findfont(family))
