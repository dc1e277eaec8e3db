import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kanseg.data import Preprocess
from kanseg.inference import Outputs, Predictor, find_images, predict_files
from kanseg.inference.files.video import MovieWriter

SIZE = (48, 60)


class Brightness(nn.Module):
    def forward(self, x):
        return x.mean(dim=1, keepdim=True)


@pytest.fixture
def predictor():
    preprocess = Preprocess(mean=(0.5,), std=(0.25,))
    return Predictor(
        Brightness(),
        preprocess,
        classes=["dark", "bright"],
        colors=[(0, 0, 0), (255, 0, 0)],
        task="binary",
        device="cpu",
        batch_size=3,
    )


def video(path, count=8, codec="MJPG"):
    """A bright bar that wanders by four columns a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, SIZE[::-1])
    for number in range(count):
        writer.write(frame(number))
    writer.release()
    return path


def frame(number):
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:, 4 * number : 4 * number + 20] = 255
    return image


def run(predictor, path, output, **options):
    return predict_files(predictor, find_images(str(path)), output, log=lambda _: None, **options)


def frames(path):
    capture = cv2.VideoCapture(str(path))
    found = []
    while (item := capture.read())[0]:
        found.append(item[1])
    return found, capture.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("avi", "MJPG"), ("mp4", "mp4v"), ("mkv", "mp4v"), ("mov", "mp4v")]
)
def test_every_frame_has_a_mask_of_its_size_and_a_place_in_the_overlay_video(
    predictor, tmp_path, suffix, codec
):
    outcome = run(predictor, video(tmp_path / f"film.{suffix}", codec=codec), tmp_path / "out")
    assert outcome.failed == []
    masks = sorted((tmp_path / "out" / "film").iterdir())
    assert [p.name for p in masks] == [f"frame_{i:06d}.png" for i in range(8)]
    for number, path in enumerate(masks):
        mask = np.asarray(Image.open(path))
        assert mask.shape == SIZE
        assert np.mean(mask == (frame(number)[:, :, 0] > 127)) > 0.98  # the codec blurs
    shown, rate = frames(tmp_path / "out" / "overlays" / "film.mp4")
    assert (len(shown), rate) == (8, 10)
    assert shown[0].shape == (*SIZE, 3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "film",
        "overlays",
        "prediction.jsonl",
    ]


def test_a_video_that_is_there_is_skipped_or_refused_but_never_mixed(predictor, tmp_path):
    path = video(tmp_path / "film.avi")
    assert run(predictor, path, tmp_path / "out").written == [tmp_path / "out" / "film"]
    assert run(predictor, path, tmp_path / "out", skip_existing=True).skipped == [
        tmp_path / "out" / "film"
    ]
    assert str(tmp_path / "out" / "film") in run(predictor, path, tmp_path / "out").failed[0]


@pytest.mark.parametrize("keep", [0, 40, 4000])
def test_a_broken_video_is_reported_and_leaves_nothing(predictor, tmp_path, keep):
    path = video(tmp_path / "film.avi")
    path.write_bytes(path.read_bytes()[:keep])
    outcome = run(predictor, path, tmp_path / "out")
    assert outcome.failed[0].startswith(f"{path}: ")
    assert outcome.written == []
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["prediction.jsonl"]


def test_an_error_in_the_middle_leaves_nothing_and_the_rest_goes_on(predictor, tmp_path):
    def fail(_, x):
        if x[0][0].mean() > 1.0:
            raise torch.OutOfMemoryError("no memory")

    predictor.model.register_forward_pre_hook(fail)
    writer = cv2.VideoWriter(
        str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1]
    )
    for number in range(9):
        writer.write(np.full((*SIZE, 3), 255 * (number > 5), np.uint8))
    writer.release()
    video(tmp_path / "b.avi")
    outcome = run(predictor, tmp_path, tmp_path / "out")
    assert [p.name for p in outcome.written] == ["b"]
    assert "a.avi: OutOfMemoryError" in outcome.failed[0]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_dir()) == ["b", "overlays"]
    assert [p.name for p in (tmp_path / "out").glob(".*")] == []


def test_annotations_name_the_frames(predictor, tmp_path):
    path = video(tmp_path / "film.avi", count=2)
    found = []
    for skip in (False, True):
        run(
            predictor,
            path,
            tmp_path / "out",
            outputs=Outputs(polygons="coco", overlays=False),
            skip_existing=skip,
        )
        found.append(json.loads((tmp_path / "out" / "annotations.json").read_text()))
    assert found[0] == found[1]
    assert [image["file_name"] for image in found[0]["images"]] == [
        "film/frame_000000.png",
        "film/frame_000001.png",
    ]


def test_labelme_files_of_a_video_are_refused_with_what_to_do(predictor, tmp_path):
    path = video(tmp_path / "film.avi", count=2)
    outcome = run(predictor, path, tmp_path / "out", outputs=Outputs(polygons="labelme"))
    assert len(outcome.failed) == 1
    assert "film.avi: labelme opens image files" in outcome.failed[0]
    assert "ffmpeg -i film.avi" in outcome.failed[0]


def test_large_frames_are_refused(predictor, tmp_path):
    outcome = run(predictor, video(tmp_path / "film.avi"), tmp_path / "out", max_pixels=100)
    assert "60x48" in outcome.failed[0]


def test_overlays_of_odd_sides_get_even_ones(tmp_path):
    movie = MovieWriter(tmp_path / "a.mp4", 10.0)
    movie.add(np.zeros((31, 45, 3), np.uint8))
    movie.close()
    assert frames(tmp_path / "a.mp4")[0][0].shape == (32, 46, 3)
