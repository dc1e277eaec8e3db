import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from commands import kanseg_command
from PIL import Image
from torch import nn

from kanseg.data import Preprocess
from kanseg.inference import Outputs, Predictor, find_images, predict_files
from kanseg.training.run import train
from kanseg.utils.errors import InputError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from conftest import make_folder
    from kanseg.config import Config, DataConfig, ModelConfig, TrainingConfig

    base = tmp_path_factory.mktemp("files")
    root = make_folder(base / "set", scale=255)
    train(
        Config(
            run_dir=str(base / "run"),
            data=DataConfig(root=str(root), workers=0, crop=[32, 32]),
            model=ModelConfig("unet", "gram", options={"width": 4, "depth": 2}),
            training=TrainingConfig(epochs=1, batch_size=2, report=False, tensorboard=False),
        )
    )
    return base / "run" / "best"


def tool(name, *arguments):
    return kanseg_command(name.removesuffix(".py"), *arguments)


def images(folder):
    """One of every kind."""
    folder.mkdir()
    rgb = RNG.integers(0, 256, (61, 83, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder / "small.jpg")
    Image.fromarray(rgb[:, :, 0]).save(folder / "gray.png")
    Image.fromarray(np.dstack([rgb, rgb[:, :, :1]])).save(folder / "rgba.png")
    cv2.imwrite(str(folder / "deep.png"), RNG.integers(0, 65536, (40, 50), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(RNG.integers(0, 256, (200, 150, 3), dtype=np.uint8)).save(folder / "large.webp")
    return {
        "small": (61, 83),
        "gray": (61, 83),
        "rgba": (61, 83),
        "deep": (40, 50),
        "turned": (83, 61),
        "large": (200, 150),
    }


def test_masks_have_exactly_the_size_of_their_images(checkpoint, tmp_path):
    sizes = images(tmp_path / "in")
    run = tool(
        "predict.py",
        "--checkpoint",
        checkpoint,
        "--input",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
    )
    assert run.returncode == 0, run.stderr
    for name, shape in sizes.items():
        mask = Image.open(tmp_path / "out" / f"{name}.png")
        assert mask.mode == "P"
        assert np.asarray(mask).shape == shape
        assert set(np.unique(mask)) <= {0, 1}
        assert np.asarray(Image.open(tmp_path / "out" / "overlays" / f"{name}.png")).shape == (
            *shape,
            3,
        )


def test_one_unreadable_file_does_not_stop_the_others(checkpoint, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
            folder / f"p{i}.png"
        )
    (folder / "p2.png").write_bytes((folder / "p2.png").read_bytes()[:300])
    run = tool(
        "predict.py", "--checkpoint", checkpoint, "--input", folder, "--output", tmp_path / "out"
    )
    assert run.returncode == 1
    assert sorted(p.name for p in (tmp_path / "out").glob("*")) == [
        "overlays",
        "p0.png",
        "p1.png",
        "p3.png",
        "prediction.json",
        "prediction.jsonl",
    ]
    assert "p2.png" in run.stderr
    assert "damaged or truncated" in run.stderr
    assert "Traceback" not in run.stderr


def test_existing_masks_can_be_skipped(checkpoint, tmp_path):
    images(tmp_path / "in")
    arguments = [
        "--checkpoint",
        checkpoint,
        "--input",
        tmp_path / "in" / "s*.jpg",
        "--output",
        tmp_path / "out",
        "--skip_existing",
    ]
    assert "1 masks" in tool("predict.py", *arguments).stdout
    before = (tmp_path / "out" / "small.png").stat().st_mtime_ns
    arguments[-1] = "--skip-existing"  # both spellings
    assert "0 masks" in tool("predict.py", *arguments).stdout
    assert (tmp_path / "out" / "small.png").stat().st_mtime_ns == before


def test_masks_of_other_checkpoints_or_options_are_not_kept(checkpoint, tmp_path):
    """Neither after a complete prediction, nor after another one that was interrupted."""
    images(tmp_path / "in")
    files, out = [tmp_path / "in" / "small.jpg"], tmp_path / "out"
    predict_files(Predictor.from_checkpoint(checkpoint), files, out)
    twice = Predictor.from_checkpoint(checkpoint, flips=2)
    with pytest.raises(InputError, match="flips"):
        predict_files(twice, files, out, skip_existing=True)
    other = Predictor.from_checkpoint(checkpoint)
    other.digest = "0"
    with pytest.raises(InputError, match="checkpoint"):
        predict_files(other, files, out, skip_existing=True)
    broken = tmp_path / "in" / "broken.png"
    broken.write_bytes(b"")
    predict_files(twice, [broken], out)
    with pytest.raises(InputError, match="flips"):
        predict_files(twice, files, out, skip_existing=True)
    predict_files(twice, files, out)
    assert len(predict_files(twice, files, out, skip_existing=True).skipped) == 1


def test_masks_without_a_record_stay_unknown(checkpoint, tmp_path):
    """Keeping masks that something else has made does not make them this checkpoint's."""
    images(tmp_path / "in")
    files, out = [tmp_path / "in" / "small.jpg"], tmp_path / "out"
    out.mkdir()
    Image.fromarray(np.zeros((61, 83), np.uint8)).save(out / "small.png")
    predictor = Predictor.from_checkpoint(checkpoint)
    outputs = Outputs(overlays=False)
    for _ in range(2):
        lines = []
        found = predict_files(
            predictor, files, out, outputs=outputs, skip_existing=True, log=lines.append
        )
        assert len(found.skipped) == 1
        assert any("without a record" in line for line in lines)
    predict_files(predictor, files, out, outputs=outputs)
    lines.clear()
    predict_files(predictor, files, out, outputs=outputs, skip_existing=True, log=lines.append)
    assert lines == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("predict.py", ["--input", "nowhere.jpg", "--output", "out"]),
        ("evaluate.py", ["--device", "nonsense"]),
        (
            "predict.py",
            ["--input", __file__.replace("test_predict.py", "*.py"), "--output", __file__],
        ),
        ("evaluate.py", ["--split", "tset"]),
        ("evaluate.py", ["--root", "nowhere"]),
    ],
)
def test_tools_end_with_one_line_and_exit_code_2(checkpoint, name, arguments):
    run = tool(name, "--checkpoint", checkpoint, *arguments)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("error: ")


def test_evaluate_prints_a_table_and_writes_json(checkpoint, tmp_path):
    run = tool(
        "evaluate.py",
        "--checkpoint",
        checkpoint,
        "--split",
        "val",
        "test",
        "--json",
        tmp_path / "scores.json",
        "--full_size",
        "--flips",
        "2",
    )
    assert run.returncode == 0, run.stderr
    assert "foreground" in run.stdout
    assert '"images": 4' in (tmp_path / "scores.json").read_text()


def test_a_mask_never_overwrites_its_image(checkpoint, tmp_path):
    Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    run = tool(
        "predict.py",
        "--checkpoint",
        checkpoint,
        "--input",
        tmp_path / "a.png",
        "--output",
        tmp_path,
    )
    assert run.returncode == 2
    assert (tmp_path / "a.png").read_bytes() == before


def test_masks_are_not_written_among_the_images(tmp_path):
    """A training would take the masks for images."""
    path = tmp_path / "set" / "a.jpg"
    path.parent.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)
    with pytest.raises(InputError, match="set"):
        predict_files(greedy_predictor(), [path], tmp_path / "set")
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["a.jpg"]


def test_an_overlay_never_overwrites_an_image_and_nothing_is_written_before(checkpoint, tmp_path):
    folder = tmp_path / "x" / "overlays"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / name)
    run = tool(
        "predict.py", "--checkpoint", checkpoint, "--input", folder, "--output", tmp_path / "x"
    )
    assert run.returncode == 2
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["overlays"]


class Greedy(nn.Module):
    """Has no memory for several images at once, nor for a bright one."""

    def forward(self, x):
        if len(x) > 1 or x.mean() > 0.9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean(dim=1, keepdim=True)


def greedy_predictor():
    return Predictor(
        Greedy(),
        Preprocess(mean=(0.0,), std=(1.0,)),
        classes=["a", "b"],
        colors=[(0, 0, 0), (255, 0, 0)],
        task="binary",
        device="cpu",
    )


def test_one_image_that_does_not_fit_into_memory_does_not_stop_the_others(tmp_path):
    for name, value in (("a", 255), ("b", 0), ("c", 10)):
        Image.fromarray(np.full((20, 20, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    predictor = greedy_predictor()
    outcome = predict_files(
        predictor, find_images(str(tmp_path)), tmp_path / "out", log=lambda _: None
    )
    assert [p.name for p in outcome.written] == ["b.png", "c.png"]
    assert "a.png: OutOfMemoryError" in outcome.failed[0]


def test_a_damaged_video_is_one_line_and_a_skipped_file_another(checkpoint, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / "a.png")
    (folder / "film.mp4").write_text("no video")
    (folder / "a.gif").write_bytes(b"GIF89a")
    run = tool(
        "predict.py",
        "--checkpoint",
        checkpoint,
        checkpoint,
        "--input",
        folder,
        "--output",
        tmp_path / "out",
        "--scales",
        "1",
        "0.5",
        "--uncertainty",
    )
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert len(lines) == 2
    assert "a.gif" in lines[0]
    assert "film.mp4: " in lines[1]
    assert "2 networks" in run.stdout
    assert (tmp_path / "out" / "uncertainty" / "a.png").is_file()


def odd_things(folder):
    """An image and what hangs or stops those that open it."""
    folder.mkdir()
    rgb = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder / "good.png")
    tifffile.imwrite(folder / "good.tif", rgb, photometric="rgb")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "self.png").symlink_to("self.png")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "loop").symlink_to(".")
    data = bytearray((folder / "good.tif").read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    for place in range(start + 2, len(data) - 12, 12):  # the type of BitsPerSample
        if struct.unpack_from("<H", data, place)[0] == 258:
            data[place + 2] = 17
            break
    (folder / "damaged.tif").write_bytes(data)
    return {"pipe.png", "pipe.mp4", "device.png", "self.png", "gone.jpg", "damaged.tif"}


@pytest.mark.parametrize("options", [[], ["--recursive"]])
def test_unreadable_files_are_a_line_each_and_the_rest_is_written(checkpoint, tmp_path, options):
    bad = odd_things(tmp_path / "in")
    arguments = ["--input", tmp_path / "in", "--output", tmp_path / "out", *options]
    done = tool("predict.py", "--checkpoint", checkpoint, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert {Path(line.split(": ")[1]).name for line in failed} == bad
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "good_png.png",
        "good_tif.png",
    }


def test_names_of_255_bytes_are_written(tmp_path):
    (tmp_path / "in").mkdir()
    name = "x" * 251
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    outputs = Outputs(probabilities="npz", uncertainty=True)
    outcome = predict_files(flat(), [tmp_path / "in" / f"{name}.png"], tmp_path, outputs=outputs)
    assert outcome.failed == []
    assert (tmp_path / f"{name}.png").is_file()
    assert (tmp_path / "probabilities" / f"{name}.npz").is_file()
    assert (tmp_path / "overlays" / f"{name}.png").is_file()
    assert not list(tmp_path.rglob("*.tmp*"))


class Mean(nn.Module):
    """One logit: the mean of the channels."""

    def forward(self, x):
        return x.mean(dim=1, keepdim=True)


def flat(channels=3, **options):
    preprocess = Preprocess(channels, mean=(0.5,) * channels, std=(0.25,) * channels, **options)
    colors = [(0, 0, 0), (255, 255, 255)]
    return Predictor(
        Mean(), preprocess, classes=["a", "b"], colors=colors, task="binary", device="cpu"
    )


def test_an_image_with_damaged_geotiff_tags_is_predicted(tmp_path):
    values = np.zeros((20, 30, 3), np.uint8)
    tags = [(34264, "d", 3, (1.0, 2.0, 3.0), True), (33550, "s", 0, "text", True)]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=tags)
    outputs = Outputs(polygons="geojson")
    outcome = predict_files(flat(), [tmp_path / "a.tif"], tmp_path / "out", outputs=outputs)
    assert outcome.failed == []


@pytest.mark.parametrize("large", [10, 10**6], ids=["windows", "whole"])
def test_pixels_without_data_are_predicted_alike_by_windows_and_whole(tmp_path, large):
    values = np.full((40, 60), 60000, np.uint16)
    values[:, 30:] = 100
    values[10:20] = 7
    tag = (42113, "s", 0, "7", True)
    options = {"tile": (16, 16), "extratags": [tag], "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    predict_files(
        flat(channels=1),
        [tmp_path / "a.tif"],
        tmp_path / "out",
        outputs=Outputs(probabilities="npz", overlays=False),
        large=large,
    )
    if large == 10:
        found = tifffile.imread(tmp_path / "out" / "probabilities" / "b" / "a.tif")
    else:
        found = np.load(tmp_path / "out" / "probabilities" / "a.npz")["probabilities"][1]
    assert np.allclose(found[10:20], 0.5, atol=1e-3)  # as seen: 0
    assert (found[:10, :30] > 0.8).all()
    assert (found[20:, 30:] < 0.2).all()


def test_a_band_that_is_no_alpha_is_not_dropped(tmp_path):
    values = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unspecified"])
    for large in (10, 10**6):
        out = tmp_path / f"out{large}"
        outcome = predict_files(flat(), [tmp_path / "a.tif"], out, large=large)
        assert "4 channels" in outcome.failed[0]
        outcome = predict_files(flat(channels=4), [tmp_path / "a.tif"], out, large=large)
        assert outcome.failed == []
