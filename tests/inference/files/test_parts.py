"""Many processes share the files of a prediction."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kanseg.cli.predict import main
from kanseg.data import Preprocess
from kanseg.inference import Outputs, Predictor, find_jobs, predict_files, read_list
from kanseg.utils.environment import launched_processes, process_rank
from kanseg.utils.errors import InputError


class Threshold(nn.Module):
    def forward(self, x):
        return torch.cat([0.3 - x[:, :1], x[:, :1] - 0.3], dim=1)


@pytest.fixture
def predictor():
    return Predictor(
        Threshold(),
        Preprocess(3),
        classes=["no", "yes"],
        task="multiclass",
        colors=[(0, 0, 0), (255, 0, 0)],
    )


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(7):
        pixels = rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i}.png")
    Image.fromarray(pixels).save(tmp_path / "in" / "6.jpg")  # shares the name of 6.png
    return tmp_path / "in"


def masks(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


@pytest.mark.parametrize("count", [2, 3, 11])
def test_parts_write_together_what_one_process_writes(predictor, folder, tmp_path, count):
    jobs, _ = find_jobs(str(folder))
    whole = predict_files(predictor, jobs, tmp_path / "whole")
    written = []
    for number in range(1, count + 1):
        part = predict_files(predictor, jobs, tmp_path / "parts", part=(number, count))
        written += [path.name for path in part.written]
    assert sorted(written) == sorted(path.name for path in whole.written)
    assert masks(tmp_path / "parts") == masks(tmp_path / "whole")
    assert len(whole.written) == 8


def test_parts_that_do_not_exist_or_need_all_files_are_refused(predictor, folder, tmp_path):
    jobs, _ = find_jobs(str(folder))
    for part in ((0, 2), (3, 2)):
        with pytest.raises(InputError, match=f"{part[0]}/{part[1]}"):
            predict_files(predictor, jobs, tmp_path / "out", part=part)
    with pytest.raises(InputError, match="--skip_existing"):
        predict_files(
            predictor, jobs, tmp_path / "out", part=(1, 2), outputs=Outputs(polygons="coco")
        )
    assert not (tmp_path / "out").exists()


def test_a_list_names_the_files(folder, tmp_path, monkeypatch):
    paths = [folder / "3.png", folder / "1.png", folder / "3.png"]
    text = "\n".join(map(str, paths)) + "\n\n"
    (tmp_path / "list.txt").write_text(text)
    assert [job.path for job in read_list(str(tmp_path / "list.txt"))] == paths[:2]
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert [job.name for job in read_list("-")] == ["3", "1"]
    for content, reason in (("\n", "no paths"), ("a.png\nb.txt\n", "b.txt")):
        (tmp_path / "list.txt").write_text(content)
        with pytest.raises(InputError, match=reason):
            read_list(str(tmp_path / "list.txt"))


def test_a_file_of_a_list_that_is_missing_fails_alone(predictor, folder, tmp_path):
    (tmp_path / "list.txt").write_text(f"{folder / '1.png'}\n{folder / 'gone.png'}\n")
    jobs = read_list(str(tmp_path / "list.txt"))
    outcome = predict_files(predictor, jobs, tmp_path / "out", log=lambda line: None)
    assert [path.name for path in outcome.written] == ["1.png"]
    assert len(outcome.failed) == 1
    assert "gone.png" in outcome.failed[0]


def test_the_tool_wants_files_and_parts_that_can_be_read(tmp_path):
    common = ["--checkpoint", "x", "--output", str(tmp_path / "out")]
    for words, reason in (
        ([], "--list"),
        (["--input", "a", "--list", "b"], "--list"),
        (["--input", "a", "--part", "3"], "3/16"),
    ):
        with pytest.raises(InputError, match=reason):
            main([*common, *words])


def test_a_launcher_gives_every_process_its_part(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert (process_rank() + 1, launched_processes()) == (3, 4)
