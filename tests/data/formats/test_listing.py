import numpy as np
import pytest
from PIL import Image

from kanseg.data import read_folder
from kanseg.data.formats.listing import index_images
from kanseg.utils.errors import InputError


def test_suffixes_of_any_case_are_images(tmp_path):
    for name in ("a.PNG", "b.Tif", "c.jpeg"):
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / name)
    assert sorted(index_images(tmp_path)) == ["a", "b", "c"]


def test_files_in_other_formats_and_folders_are_reported_not_read(folder):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "images" / "x.gif")
    (folder / "images" / "more").mkdir()
    (folder / "images" / "Thumbs.db").write_bytes(b"x")
    (folder / "images" / ".hidden.gif").write_bytes(b"x")
    notes = [note for note in read_folder(folder).notes if "left out" in note]
    assert len(notes) == 1
    assert str(folder / "images") in notes[0]
    assert "1 folders, 1 .gif" in notes[0]


def test_images_in_folders_of_their_own_are_named(folder):
    (folder / "images" / "patient_1").mkdir()
    for path in (folder / "images").glob("*.png"):
        path.rename(folder / "images" / "patient_1" / path.name)
    with pytest.raises(InputError, match="images: no images .* only patient_1;"):
        read_folder(folder)
