import os
from pathlib import Path

import pytest

from kanseg.inference.files.inputs import Job, find_images, find_jobs, name_jobs, refuse_clashes
from kanseg.utils.errors import InputError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_a_folder_a_file_and_a_pattern_are_found(tmp_path):
    touch(tmp_path, "b.png", "a.jpg", ".hidden.png", "notes.txt")
    assert [p.name for p in find_images(str(tmp_path))] == ["a.jpg", "b.png"]
    assert [p.name for p in find_images(str(tmp_path / "*.jpg"))] == ["a.jpg"]
    assert [p.name for p in find_images(str(tmp_path / "b.png"))] == ["b.png"]
    with pytest.raises(InputError, match=r"\*\.gif"):
        find_images(str(tmp_path / "*.gif"))


def test_skipped_files_and_folders_are_listed(tmp_path):
    touch(tmp_path, "a.jpg", "x.gif", "notes.txt", "sub/c.png")
    jobs, notes = find_jobs(str(tmp_path))
    assert [job.name for job in jobs] == ["a"]
    assert "notes.txt, x.gif" in notes[0]
    assert "sub (--recursive" in notes[1]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(InputError, match="x.gif"):
        find_jobs(str(tmp_path))


def test_a_file_of_an_unknown_kind_is_refused(tmp_path):
    touch(tmp_path, "a.gif")
    with pytest.raises(InputError, match=r"a\.gif.*png"):
        find_jobs(str(tmp_path / "a.gif"))


def test_folders_keep_their_structure_and_the_output_is_no_input(tmp_path):
    touch(tmp_path, "a.png", "x/a.png", "x/y/b.tif", "x/.cache/c.png", "out/a.png", "film.mp4")
    jobs, notes = find_jobs(str(tmp_path), recursive=True, output=tmp_path / "out")
    assert [(job.name, job.file_name, job.is_video) for job in jobs] == [
        ("a", "a.png", False),
        ("film", "film.mp4", True),
        ("x/a", "x/a.png", False),
        ("x/y/b", "x/y/b.tif", False),
    ]
    assert notes == []


def test_files_of_one_stem_get_different_names():
    assert [job.name for job in name_jobs([Path("a.png"), Path("a.jpg"), Path("b.v1.png")])] == [
        "a_png",
        "a_jpg",
        "b.v1",
    ]
    with pytest.raises(InputError, match=r"x/a\.png .*y/a\.png"):
        name_jobs([Path("x/a.png"), Path("y/a.png")])


def test_an_output_that_is_the_input_is_refused(tmp_path):
    touch(tmp_path, "a.png")
    with pytest.raises(InputError, match="--output"):
        find_jobs(str(tmp_path), output=tmp_path)


def test_a_mask_that_would_be_an_overlay_of_another_is_refused():
    first, second = Job(Path("a.png"), "a"), Job(Path("overlays/a.png"), "overlays/a")
    refuse_clashes({first: [Path("o/a.png")], second: [Path("o/overlays/a.png")]})
    with pytest.raises(InputError, match=r"a\.png .*overlays/a\.png"):
        refuse_clashes(
            {first: [Path("o/a.png"), Path("o/overlays/a.png")], second: [Path("o/overlays/a.png")]}
        )


def test_an_image_that_would_be_a_frame_of_a_video_is_refused():
    film, frame, other = (
        Job(Path("f.mp4"), "f"),
        Job(Path("f/frame_000000.png"), "f/frame_000000"),
        Job(Path("f/x.png"), "f/x"),
    )
    refuse_clashes({film: [], other: [Path("o/f/x.png")]})
    with pytest.raises(InputError, match=r"f\.mp4 .*frame_000000\.png"):
        refuse_clashes({film: [], frame: [Path("o/f/frame_000000.png")]})


def test_jobs_come_in_the_order_of_their_paths_and_keep_their_names_in_parts(tmp_path):
    names = ["b.png", "a/z.png", "a/b.png", "a.png", "a.tif", "a/c/d.png", "a-1.png", "c/a.jpg"]
    touch(tmp_path, *names)
    jobs, _ = find_jobs(str(tmp_path), recursive=True)
    assert [job.path for job in jobs] == sorted(tmp_path / name for name in names)
    assert [job.name for job in jobs if job.path.parent == tmp_path] == [
        "a-1",
        "a_png",
        "a_tif",
        "b",
    ]
    assert [job.name for job in jobs[1::3]] == [job.name for job in jobs][1::3]
    assert list(name_jobs(list(jobs[2:5]))) == list(jobs)[2:5]


def test_links_into_the_output_and_folders_that_are_links_are_not_followed(tmp_path):
    touch(tmp_path, "in/a.png", "out/m.png", "far/x.png")
    (tmp_path / "in" / "m.png").symlink_to(tmp_path / "out" / "m.png")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "loop.png").symlink_to(tmp_path / "in" / "loop.png")
    jobs, _ = find_jobs(str(tmp_path / "in"), recursive=True, output=tmp_path / "out")
    assert [job.name for job in jobs] == ["a", "loop"]  # opening the loop reports it


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "closed/b.png")
    scan = os.scandir

    def refuse(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    jobs, notes = find_jobs(str(tmp_path), recursive=True)
    assert [job.name for job in jobs] == ["a"]
    assert "closed" in notes[0]
