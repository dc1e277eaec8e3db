"""Write matplotlib figures to files, without a window system and without matplotlib's state."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from kanseg.utils.io import atomic_write
from kanseg.visualization.fonts import families


def save_figure(figure: Any, path: Path) -> Path:
    """Write a `matplotlib.figure.Figure` as a PNG, atomically. Its canvas grows with its content,
    so that long names are not cut off.
    """
    for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
        text.set_fontfamily(families())
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # Letters that no font has are drawn as boxes; one warning for each would hide others.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight", pad_inches=0.15)
    return path
