"""Figures of matplotlib as files: no window system is needed, and matplotlib's own state is left as
it is.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from kanseg.names import temporary_beside
from kanseg.training.fonts import families


def save_figure(figure: Any, path: Path) -> Path:
    """Write a `matplotlib.figure.Figure` as a PNG, whole or not at all; it grows to what is drawn,
    however long the names are.
    """
    for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
        text.set_fontfamily(families())
    temporary = temporary_beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            warnings.catch_warnings()
        ):  # one a letter and line that no font has; they are drawn as boxes
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight", pad_inches=0.15)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
