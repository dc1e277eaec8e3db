import json
import os
from multiprocessing import get_context

import pytest
from PIL import Image

from kanseg.config import DataConfig
from kanseg.data import check_data
from kanseg.data.checks import cache, cache_folder


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KANSEG_CACHE", str(tmp_path / "cache"))


def files(report):
    """(files that were decoded, files whose facts came from the cache)."""
    counts = report.to_json()["files"]
    return counts["decoded"], counts["from_cache"]


def plain(report):
    return {
        key: value for key, value in report.to_json().items() if key not in ("seconds", "files")
    }


def test_unchanged_files_are_not_decoded_again_and_the_report_is_the_same(folder):
    (folder / "images" / "p00.png").write_bytes(b"")
    first = check_data(DataConfig(root=str(folder)))
    second = check_data(DataConfig(root=str(folder)))
    assert files(first) == (12, 0)
    assert files(second) == (0, 12)
    assert plain(first) == plain(second)


def test_nothing_else_decodes_them_either(folder, monkeypatch):
    check_data(DataConfig(root=str(folder)))
    monkeypatch.setattr(Image, "open", None)
    assert check_data(DataConfig(root=str(folder))).errors == []


def test_only_a_touched_file_is_decoded_again(folder):
    check_data(DataConfig(root=str(folder)))
    os.utime(folder / "masks" / "p03.png", ns=(1, 1))
    assert files(check_data(DataConfig(root=str(folder)))) == (1, 11)


def test_other_settings_change_the_verdict_without_decoding(folder):
    assert not check_data(DataConfig(root=str(folder))).errors
    report = check_data(DataConfig(root=str(folder), classes=["a", "b"], mask_values={0: 0, 1: 1}))
    assert files(report) == (0, 12)
    assert {issue.code for issue in report.errors} == {"mask_0_255"}


def test_another_limit_of_pixels_decodes_again(folder):
    check_data(DataConfig(root=str(folder)))
    report = check_data(DataConfig(root=str(folder), max_pixels=100))
    assert files(report) == (12, 0)
    assert {issue.code for issue in report.errors if issue.file != "."} == {"too_large"}


def test_it_can_be_left_out(folder):
    check_data(DataConfig(root=str(folder)))
    assert files(check_data(DataConfig(root=str(folder)), use_cache=False)) == (12, 0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"version": 0, "files": {}}',
        '{"version": 1, "files": {"image images/p00.png": 3}}',
    ],
)
def test_a_damaged_cache_is_an_empty_one(folder, content):
    check_data(DataConfig(root=str(folder)))
    (path,) = cache_folder().glob("*.json")
    path.write_text(content)
    report = check_data(DataConfig(root=str(folder)))
    assert report.errors == []
    assert files(report) == (12, 0)
    assert json.loads(path.read_text())["version"] == cache.VERSION


def test_a_place_that_cannot_be_written_is_no_fault(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KANSEG_CACHE", str(tmp_path / "file"))
    assert check_data(DataConfig(root=str(folder))).errors == []


def test_it_is_never_in_the_data_folder(folder, monkeypatch):
    before = sorted(folder.rglob("*"))
    monkeypatch.setenv("KANSEG_CACHE", str(folder / "cache"))
    check_data(DataConfig(root=str(folder)))
    assert sorted(folder.rglob("*")) == before


def test_where_it_lies(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache" / "checks"
    monkeypatch.delenv("KANSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "kanseg" / "checks"


def test_it_forgets_old_entries_and_old_data_sets(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_UNUSED", 3)
    monkeypatch.setattr(cache, "MAX_DATA_SETS", 2)
    check_data(DataConfig(root=str(folder)))
    for path in [*(folder / "images").iterdir(), *(folder / "masks").iterdir()]:
        path.rename(path.with_name(f"q{path.name}"))
    for name in ("train", "val", "test"):
        text = (folder / f"{name}.txt").read_text()
        (folder / f"{name}.txt").write_text(text.replace("p", "qp"))
    check_data(DataConfig(root=str(folder)))
    (path,) = cache_folder().glob("*.json")
    assert len(json.loads(path.read_text())["files"]) == 12 + 3
    for i in range(4):
        other = cache.Cache(tmp_path / f"set{i}")
        other.put("key", [1], {})
        other.save()
    assert len(list(cache_folder().iterdir())) == 2


def _write(root, number):
    for i in range(20):
        own = cache.Cache(root)
        own.put(f"{number}-{i}", [i], {"value": i})
        own.save()


def test_processes_that_write_at_once_leave_a_whole_file(tmp_path):
    root = tmp_path / "set"
    workers = [
        get_context("fork").Process(target=_write, args=(root, number)) for number in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    (path,) = cache_folder().iterdir()
    assert json.loads(path.read_text())["files"]
