"""The data set that the settings ask for."""

from __future__ import annotations

from typing import Any

from kanseg.config import DataConfig
from kanseg.data.blue_marble import prepare_blue_marble
from kanseg.data.folder import Folder, read_folder
from kanseg.errors import InputError

PREPARED = {"blue_marble": prepare_blue_marble}


def open_data(data: DataConfig, *, tell: Any = print) -> Folder:
    """The data set of the settings, prepared first if it is an embedded one."""
    if data.prepare is not None:
        if data.prepare not in PREPARED:
            raise InputError(f"data.prepare: {data.prepare!r} is not one of {', '.join(PREPARED)}")
        PREPARED[data.prepare](data.root)
    overrides = {key: getattr(data, key) for key in ("task", "classes", "mask_values", "ignore_index", "palette")}
    folder = read_folder(data.root, overrides, seed=data.split_seed)
    for note in folder.notes:
        tell(f"data: {note}")
    return folder
