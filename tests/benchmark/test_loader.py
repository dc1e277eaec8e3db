import json

import numpy as np
import pytest
import torch
from commands import kanseg_command

from conftest import make_folder
from kanseg.benchmark.loader import (
    Bare,
    LoaderCase,
    _rows,
    loader_rows,
    loader_table,
    make_images,
)
from kanseg.data import read_folder
from kanseg.utils.errors import InputError


def test_the_ratio_is_to_the_faster_of_the_bare_loaders():
    times = {
        "bare, PIL": [2.0, 2.0, 2.0],
        "bare, OpenCV": [1.0, 1.0, 1.0],
        "kanseg": [1.25, 1.25, 1.25],
        "kanseg, augmented": [4.0, 4.0, 4.0],
    }
    rows = {row["loader"]: row for row in _rows(times, 10)}
    assert rows["bare, OpenCV"]["images_per_second"] == 10
    assert {name: row["ratio"] for name, row in rows.items()} == {
        "bare, PIL": 0.5,
        "bare, OpenCV": 1.0,
        "kanseg": 0.8,
        "kanseg, augmented": 0.25,
    }
    assert (rows["kanseg"]["met"], rows["kanseg, augmented"]["met"]) == (True, None)
    assert _rows(times | {"kanseg": [1.3] * 3}, 10)[2]["met"] is False


@pytest.mark.parametrize("opencv", [False, True])
def test_the_bare_loader_decodes_the_same_files(tmp_path, opencv):
    samples = read_folder(make_folder(tmp_path / "set", size=(32, 32))).samples("train")
    image, mask = Bare(samples, 32, opencv=opencv)[0]
    from PIL import Image

    expected = np.asarray(Image.open(samples[0].image))
    assert np.array_equal(image.numpy()[:, :, ::-1] if opencv else image.numpy(), expected)
    assert torch.equal(mask, torch.from_numpy(np.asarray(Image.open(samples[0].mask)).copy()))


def test_a_folder_is_read_by_every_loader_and_left_alone(tmp_path):
    root = make_folder(tmp_path / "set")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    rows = loader_rows(str(root), LoaderCase(size=16, batch=2, workers=0, rounds=1))
    assert [row["loader"] for row in rows] == [
        "bare, PIL",
        "bare, OpenCV",
        "kanseg",
        "kanseg, augmented",
    ]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert "| kanseg" in loader_table(rows)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_made_images_are_a_data_set(tmp_path):
    make_images(tmp_path / "set", count=4, size=(40, 50))
    assert read_folder(tmp_path / "set").label_spec.classes == ("background", "foreground")


def test_the_tool_writes_its_figures(tmp_path):
    root = make_folder(tmp_path / "set")
    small = ["--workers", "0", "--size", "16", "--rounds", "1"]
    words = ["loader", "--root", root, *small, "--json", tmp_path / "f.json"]
    done = kanseg_command("benchmark", *words)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "f.json").read_text())["rows"]) == 4


def test_what_cannot_be_measured_is_told(tmp_path):
    with pytest.raises(InputError, match="workers must be at least 0, got -1"):
        LoaderCase(workers=-1)
    with pytest.raises(InputError, match="no such folder"):
        loader_rows(str(tmp_path / "none"), LoaderCase())
