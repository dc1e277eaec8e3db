"""Folders of images become a table and thumbnails sorted by class."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from kanseg.cli.predict import main
from kanseg.data import Preprocess
from kanseg.inference import Classifier, classify_files, find_jobs
from kanseg.inference.files.classes import thumbnail_names
from kanseg.inference.files.inputs import Job
from kanseg.inference.files.record import read_journal
from kanseg.utils.errors import InputError
from tests.inference.test_classifier import COLORS, Brightest, image, network, write_classifier

PLAIN = Preprocess(mean=(0.0,), std=(1.0,), resize=(8, 8))


def classifier(**options):
    made = network(options.pop("model", None), preprocess=PLAIN, **options)
    return Classifier([made], batch_size=3, device="cpu")


@pytest.fixture
def scans(tmp_path):
    """Seven images, red, green, blue, red, ..., in a folder and one below it."""
    folder = tmp_path / "scans"
    (folder / "more").mkdir(parents=True)
    for number in range(7):
        path = folder / ("more" if number > 4 else "") / f"{number}.png"
        Image.fromarray(image(COLORS[number % 3], (20 + number, 400))).save(path)
    return folder


def classify(scans, output, found=None, **options):
    jobs, _ = find_jobs(str(scans), recursive=True, output=output)
    options.setdefault("log", lambda line: None)
    return classify_files(found or classifier(), jobs, output, **options)


def table(output):
    with (output / "predictions.csv").open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


def thumbnails(output):
    return sorted(str(p.relative_to(output)) for p in (output / "thumbnails").rglob("*.*"))


def test_the_table_has_class_and_probabilities_and_thumbnails_lie_by_class(scans, tmp_path):
    out = tmp_path / "out"
    summary = classify(scans, out)
    rows = table(out)
    assert [row["file"] for row in rows] == [str(path) for path in summary.written]
    assert [row["class"] for row in rows] == [COLORS[n % 3] for n in range(7)]
    first = rows[0]
    assert float(first["probability"]) == float(first["red/probability"]) > 0.9
    assert sum(float(first[f"{name}/probability"]) for name in COLORS) == pytest.approx(1, abs=1e-5)
    assert thumbnails(out) == [
        "thumbnails/blue/2.jpg",
        "thumbnails/blue/more_5.jpg",
        "thumbnails/green/1.jpg",
        "thumbnails/green/4.jpg",
        "thumbnails/red/0.jpg",
        "thumbnails/red/3.jpg",
        "thumbnails/red/more_6.jpg",
    ]
    shown = Image.open(out / "thumbnails/red/0.jpg")
    assert shown.size == (160, 8)
    assert np.asarray(shown).mean(axis=(0, 1))[0] > 240


def test_of_many_classes_the_five_most_likely_are_listed(scans, tmp_path):
    class Many(Brightest):
        def forward(self, images):
            scores = super().forward(images)
            return scores.repeat(1, 10) - 0.01 * scores.new_tensor(range(30))

    classify(
        scans, tmp_path / "out", classifier(model=Many(), classes=[f"c{n}" for n in range(30)])
    )
    row = table(tmp_path / "out")[0]
    assert len(row) == 3 + 2 * 5
    assert [row[f"class_{n}"] for n in range(1, 6)] == ["c0", "c3", "c6", "c9", "c12"]
    assert row["class"] == "c0"
    assert row["probability"] == row["probability_1"] > row["probability_2"]


def test_a_bad_file_and_a_video_are_reported_and_the_rest_is_written(scans, tmp_path):
    (scans / "bad.png").write_bytes(b"no image")
    (scans / "film.mp4").write_bytes(b"")
    lines = []
    summary = classify(scans, tmp_path / "out", log=lines.append)
    assert len(summary.written) == len(table(tmp_path / "out")) == 7
    journal = [*read_journal(tmp_path / "out" / "prediction.jsonl")]
    assert [line["error"] for line in journal if "error" in line] == summary.failed
    assert len({line["input"] for line in journal}) == len(journal) == 9
    assert len(summary.failed) == len(lines) == 2
    assert "bad.png" in lines[0]
    assert "film.mp4: is a video" in lines[1]


def test_parts_give_the_table_of_one_process_when_the_last_ends(scans, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    classify(scans, whole)
    for number in (2, 3):
        classify(scans, parts, part=(number, 3))
        assert not (parts / "predictions.csv").exists()
    classify(scans, parts, part=(1, 3))
    name = "predictions.csv"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert thumbnails(parts) == thumbnails(whole)
    with pytest.raises(InputError, match="part 4/3"):
        classify(scans, parts, part=(4, 3))


def test_a_killed_run_continues_after_the_last_image(scans, tmp_path):
    out, calls = tmp_path / "out", []

    class Counting(Brightest):
        def forward(self, images):
            calls.extend(images)
            return super().forward(images)

    whole = tmp_path / "whole"
    classify(scans, whole)
    classify(scans, out)
    journal = out / "prediction.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]) + lines[3][:20])  # three images and a torn line
    (out / "predictions.csv").unlink()
    (out / json.loads(lines[0])["output"]).unlink()
    summary = classify(scans, out, classifier(model=Counting()), skip_existing=True)
    assert len(calls) == len(summary.written) == 5
    assert len(summary.skipped) == 2
    assert (out / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()


def test_other_weights_replace_all_and_are_not_mixed_in(scans, tmp_path):
    out = tmp_path / "out"
    classify(scans, out)
    (out / "thumbnails/red/mine.txt").write_text("kept")
    other = classifier(model=Brightest(scale=-4.0))
    other.networks[0].__dict__["digest"] = "y"
    with pytest.raises(InputError, match="checkpoint"):
        classify(scans, out, other, skip_existing=True)
    assert len(table(out)) == 7
    classify(scans, out, other)
    assert {row["class"] for row in table(out)} == {"red", "green"}  # the first of the dark ones
    shown = thumbnails(out)
    assert len(shown) == 8
    assert "thumbnails/red/mine.txt" in shown
    assert not (out / "thumbnails/blue").exists()


def test_images_of_another_size_than_the_trained_ones_are_counted(scans, tmp_path):
    lines = []
    own_size = Classifier(
        [network(preprocess=Preprocess(mean=(0.0,), std=(1.0,)), image_size=(20, 400))],
        device="cpu",
    )
    classify(scans, tmp_path / "out", own_size, log=lines.append)
    assert len(lines) == 1
    assert "6 images have another size" in lines[0]


def test_the_inputs_are_not_overwritten(scans, tmp_path):
    out = tmp_path / "out"
    (out / "thumbnails").mkdir(parents=True)
    with pytest.raises(InputError, match="thumbnails"):
        classify_files(classifier(), [out / "thumbnails" / "a.png"], out)


def test_thumbnails_of_equal_names_get_numbers(tmp_path):
    names = ("a/b", "a_b", "A_B", "c")
    jobs = [Job(tmp_path / f"{number}.png", name) for number, name in enumerate(names)]
    assert list(thumbnail_names(jobs).values()) == ["a_b.jpg", "a_b_2.jpg", "A_B_3.jpg", "c.jpg"]


def test_the_command_writes_the_table_and_refuses_what_is_for_masks(scans, tmp_path, capsys):
    checkpoint, out = write_classifier(tmp_path / "best"), tmp_path / "out"
    words = ["--checkpoint", str(checkpoint), "--input", str(scans), "--output", str(out)]
    words += ["--device", "cpu"]
    assert main([*words, "--no_thumbnails", "--flips", "2"]) == 0
    assert f"5 images in {out / 'predictions.csv'}, 0 failed" in capsys.readouterr().out
    assert not (out / "thumbnails").exists()
    refused = [["--tile", "64"], ["--mode", "tiles"], ["--polygons", "coco"], ["--uncertainty"]]
    for option in [*refused, ["--probabilities", "npz"], ["--no_overlays"], ["--scales", "1", "2"]]:
        with pytest.raises(InputError, match=f"{option[0][2:]}.* is.* a classifier"):
            main([*words, *option])
