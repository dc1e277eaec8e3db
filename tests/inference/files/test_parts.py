"""Many processes share the files of a prediction."""

import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn

import kanseg
from conftest import write_segmenter
from kanseg.cli.predict import main
from kanseg.data import Preprocess
from kanseg.inference import Outputs, Predictor, find_jobs, predict_files, read_list
from kanseg.inference.files.claims import Claims
from kanseg.inference.files.processes import ProcessId, this_host
from kanseg.inference.files.record import journal_path, read_journal
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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_segmenter(tmp_path_factory.mktemp("checkpoint") / "best")


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


def other_process(*, runs):
    """The process that started this one, or one that has ended."""
    pid = os.getppid()
    started = psutil.Process(pid).create_time()
    return ProcessId(this_host(), pid, started if runs else started - 60)


def test_a_process_takes_over_the_files_of_a_killed_one(predictor, folder, tmp_path):
    jobs, _ = find_jobs(str(folder))
    predict_files(predictor, jobs, tmp_path / "alone")
    dead = Claims(tmp_path / "out", other_process(runs=False))
    for name in ("1", "6_png"):
        assert dead.take(name) is None
    torn = tmp_path / "out" / f".0123456789abcdef.{dead.process.pid}.tmp.png"
    torn.write_bytes(b"half")
    summary = predict_files(predictor, jobs, tmp_path / "out", share=True)
    assert len(summary.written) == 8
    assert masks(tmp_path / "out") == masks(tmp_path / "alone")
    assert sorted((p.written, p.failed, p.killed) for p in summary.processes) == [
        (0, 0, True),
        (8, 0, False),
    ]
    # Nothing is left but the outputs and the record.
    assert {path.name for path in (tmp_path / "out").iterdir()} - set(masks(tmp_path / "out")) == {
        "overlays",
        *(path.name for path in (tmp_path / "out").glob("prediction.*.jsonl")),
    }
    again = predict_files(predictor, jobs, tmp_path / "out", share=True)
    assert (len(again.written), len(again.skipped)) == (0, 8)


def test_a_process_waits_for_files_of_another_and_takes_those_it_gives_back(
    predictor, folder, tmp_path
):
    jobs, _ = find_jobs(str(folder))
    other = Claims(tmp_path / "out", other_process(runs=True))
    for name in ("0", "2", "4"):
        assert other.take(name) is None
    with ThreadPoolExecutor() as pool:
        summary = pool.submit(predict_files, predictor, jobs, tmp_path / "out", share=True)
        deadline = time.monotonic() + 60
        while len(masks(tmp_path / "out")) < 10:  # 5 masks and overlays
            assert time.monotonic() < deadline
            time.sleep(0.02)
        predict_files(predictor, jobs[:1], tmp_path / "out")  # what the other process would write
        other.release("0")
        other.release("2")
        other.fail("4", "4.png: no memory")
        result = summary.result()
    assert sorted(path.name for path in result.written) == sorted(
        ["1.png", "2.png", "3.png", "5.png", "6_jpg.png", "6_png.png"]
    )
    assert [path.name for path in result.skipped] == ["0.png"]
    assert result.failed == ["4.png: no memory"]
    assert result.processes == []  # the other one is the last
    assert len(other.leave()) == 2


def test_the_last_process_writes_the_annotations_of_all(predictor, folder, tmp_path):
    jobs, _ = find_jobs(str(folder))
    outputs = Outputs(polygons="coco")
    predict_files(predictor, jobs, tmp_path / "alone", outputs=outputs)
    other = Claims(tmp_path / "out", other_process(runs=True))
    predict_files(predictor, jobs[:3], tmp_path / "out", outputs=outputs, share=True)
    assert not (tmp_path / "out" / "annotations.json").exists()
    other.leave()
    predict_files(predictor, jobs, tmp_path / "out", outputs=outputs, share=True)
    annotations = [tmp_path / name / "annotations.json" for name in ("alone", "out")]
    assert annotations[0].read_text() == annotations[1].read_text()


@pytest.mark.slow
def test_two_commands_share_a_folder_and_one_of_them_is_killed(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(300):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    words = ["--checkpoint", str(checkpoint), "--input", str(tmp_path / "in"), "--no_overlays"]
    main([*words, "--output", str(tmp_path / "alone")])
    command = [sys.executable, "-m", "kanseg", "predict", *words, "--share"]
    command += ["--output", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path(kanseg.__file__).parents[1])}
    both = []
    for _ in range(2):
        both.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    journals = [f"prediction.*-{process.pid}.jsonl" for process in both]
    while not all(list((tmp_path / "out").glob(name)) for name in journals):
        assert both[0].poll() is None
        time.sleep(0.02)
    both[0].kill()
    printed = both[1].communicate(timeout=600)[0]
    assert both[1].returncode == 0
    assert "killed" in printed
    assert masks(tmp_path / "out") == masks(tmp_path / "alone")
    lines = []
    for name in journals:
        (path,) = (tmp_path / "out").glob(name)
        lines += [line["input"] for line in read_journal(path)]
    assert len(lines) == len(set(lines))  # every image once
    assert len(lines) >= 299  # the process may have been killed between a mask and its line
    assert not (tmp_path / "out" / ".claims").exists()


def test_parts_are_not_shared(predictor, folder, tmp_path):
    jobs, _ = find_jobs(str(folder))
    with pytest.raises(InputError, match="--part or --share"):
        predict_files(predictor, jobs, tmp_path / "out", share=True, part=(1, 2))


def test_the_journal_has_a_line_for_each_file_as_soon_as_it_is_done(predictor, folder, tmp_path):
    (folder / "3.png").write_bytes(b"no image")
    jobs, _ = find_jobs(str(folder))
    predict_files(predictor, jobs[:2], tmp_path / "out", log=lambda line: None)
    path = journal_path(tmp_path / "out")
    with path.open("a") as file:
        file.write('{"input": "torn')
    predict_files(predictor, jobs[2:], tmp_path / "out", log=lambda line: None)
    lines = {line["input"]: line for line in read_journal(path)}
    assert set(lines) == {str(job.path) for job in jobs}
    first = lines[str(folder / "1.png")]
    assert (first["output"], first["size"]) == ("1.png", [21, 30])
    assert 0 < first["seconds"] < 60
    assert lines[str(folder / "6.jpg")]["output"] == "6_jpg.png"
    assert lines[str(folder / "3.png")].keys() == {"input", "error", "time"}
    for number in (1, 2):
        predict_files(predictor, jobs[4:], tmp_path / "parts", part=(number, 2))
    names = {path.name for path in (tmp_path / "parts").glob("*.jsonl")}
    assert names == {"prediction.1-of-2.jsonl", "prediction.2-of-2.jsonl"}
