"""Write matplotlib figures to files, without pyplot and its global state."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from kanseg.utils.io import atomic_write
from kanseg.visualization.fonts import families


def save_figure(figure: Any, path: Path) -> Path:
    """Write a `matplotlib.figure.Figure` as a PNG, atomically. The canvas grows with the content,
    so that long names are not cut off.
    """
    for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
        text.set_fontfamily(families())
    with atomic_write(path) as temporary, warnings.catch_warnings():
        # Letters that no font has are drawn as boxes; a warning for each would flood the log.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight", pad_inches=0.15)
    return path
