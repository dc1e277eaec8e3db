"""Draw matplotlib figures as PNG, without pyplot and its global state."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from kanseg.utils.io import atomic_write
from kanseg.visualization.fonts import families


def save_figure(figure: Any, path: Path) -> Path:
    """Write a `matplotlib.figure.Figure` as a PNG, atomically, see `figure_png`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(figure_png(figure))
    return path


def figure_png(figure: Any) -> bytes:
    """Draw a `matplotlib.figure.Figure` as a PNG. The canvas grows with the content, so that long
    names are not cut off.
    """
    for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
        text.set_fontfamily(families())
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that no font has are drawn as boxes; a warning for each would flood the log.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, dpi=110, format="png", bbox_inches="tight", pad_inches=0.15)
    return stream.getvalue()
