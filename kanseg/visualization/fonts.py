"""Fonts that have the letters of what is written: DejaVu Sans, which comes with matplotlib, or an
installed one with Chinese, Japanese and Korean.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont

WIDE = (  # families with Chinese letters, as systems have them
    *(
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Noto Sans SC",
        "Source Han Sans SC",
        "WenQuanYi Micro Hei",
        "WenQuanYi Zen Hei",
    ),
    *("Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS"),
)


@cache
def families() -> list[str]:
    """Names of families for matplotlib, which takes each letter from the first one that has it."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in WIDE if name in installed)]


def font_for(text: str, size: int = 14) -> ImageFont.FreeTypeFont:
    """The first font that has all letters of the text; DejaVu Sans, which draws boxes for the
    missing ones, where none has.
    """
    if text.isascii():
        return _font("DejaVu Sans", size)
    return _font(
        next(
            (name for name in families() if {ord(letter) for letter in text} <= _letters(name)),
            "DejaVu Sans",
        ),
        size,
    )


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

    if family == "DejaVu Sans":
        return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return Path(findfont(family))
