"""Figures of matplotlib as files: no window system is needed, and matplotlib's own state is left as
it is.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from kanseg.utils.io import atomic_write
from kanseg.visualization.fonts import families


def save_figure(figure: Any, path: Path) -> Path:
    """Write a `matplotlib.figure.Figure` as a PNG, whole or not at all; it grows to what is drawn,
    however long the names are.
    """
    for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
        text.set_fontfamily(families())
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # Letters that no font has are drawn as boxes; one warning for each would hide others.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight", pad_inches=0.15)
    return path
