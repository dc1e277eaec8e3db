import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kanseg.config import ClassificationConfig, Config
from kanseg.training.run import train
from kanseg.training.run_folder.logging import RunLog
from kanseg.training.run_folder.trackers import TensorBoard, WeightsAndBiases, import_wandb, shrunk
from kanseg.utils.errors import InputError


class Recorder:
    def __init__(self):
        self.seen = []

    def scalars(self, values, step):
        self.seen.append((step, values))

    def image(self, name, image, step):
        self.seen.append((step, name, image.size))

    def close(self):
        self.seen.append("closed")


def test_a_log_passes_numbers_and_images_to_its_trackers(tmp_path):
    recorder = Recorder()
    log = RunLog(tmp_path, active=True, trackers=[recorder])
    log.write(
        {
            "step": 3,
            "epoch": 1,
            "val": {"iou": {"a": 0.5, "b": float("nan")}},
            "stopped_early": True,
        }
    )
    log.image("val/samples", np.zeros((4, 6, 3), np.uint8), step=3)
    log.image("val/samples", None, step=3)
    log.close()
    assert recorder.seen == [(3, {"val/iou/a": 0.5}), (3, "val/samples", (6, 4)), "closed"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_other_processes_log_nothing(tmp_path):
    recorder = Recorder()
    log = RunLog(tmp_path, active=False, trackers=[recorder])
    log.write({"step": 1, "loss": 1.0})
    log.close()
    assert recorder.seen == []
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_cannot_be_closed_does_not_hide_what_went_wrong_before(tmp_path):
    class FullDisk(Recorder):
        def close(self):
            raise OSError(28, "No space left on device")

    with (
        pytest.raises(InputError, match="the checkpoint could not be written"),
        RunLog(tmp_path, active=True, trackers=[FullDisk()]),
    ):
        raise InputError("the checkpoint could not be written")
    with (
        pytest.raises(OSError, match="No space"),
        RunLog(tmp_path, active=True, trackers=[FullDisk()]),
    ):
        pass


def test_large_images_are_shrunk_and_small_ones_are_not():
    assert shrunk(np.zeros((100, 2560, 3), np.uint8)).size == (1280, 50)
    assert shrunk(np.zeros((5, 7, 3), np.uint8)).size == (7, 5)


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_holds_what_it_was_reported(tmp_path):
    board = TensorBoard(tmp_path)
    board.scalars({"loss": 0.25}, 7)
    board.image("val/samples", Image.new("RGB", (8, 6), (200, 10, 10)), 7)
    board.close()
    found = events(tmp_path / "tensorboard")
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(7, 0.25)]
    (image,) = found.Images("val/samples")
    assert (image.step, image.width, image.height) == (7, 8, 6)
    assert image.encoded_image_string[:3] == b"\xff\xd8\xff"


def test_a_run_draws_the_same_samples_at_every_validation(config, tmp_path):
    config.training.tensorboard, config.training.log_images = True, 1
    train(config)
    found = events(tmp_path / "run" / "tensorboard")
    assert [image.step for image in found.Images("val/samples")] == [2, 4]
    assert {image.width for image in found.Images("val/samples")} == {
        4 * (6 * 40 + 4) + 4
    }  # four cells, six times the size, and margins
    plain = (tmp_path / "run" / "log.jsonl").read_bytes()
    config.training.log_images = 0
    train(config, overwrite=True)
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == plain
    assert not events(tmp_path / "run" / "tensorboard").Tags()["images"]


def test_a_run_goes_on_without_tensorboard_which_it_says_and_albumentations(
    config, tmp_path, monkeypatch, capsys
):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "albumentations", None)
    config.data.augment = ["torchvision.RandomHorizontalFlip"]
    config.training.tensorboard, config.training.epochs = True, 1
    train(config)
    assert capsys.readouterr().out.count('python -m pip install "kanseg[tensorboard]"') == 1
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert (tmp_path / "run" / "metrics.json").is_file()


def settings(kind=Config):
    config = kind()
    config.training.wandb, config.training.project = "offline", "tries"
    return config


class Stub:
    """A fake wandb that records its calls."""

    Image = staticmethod(lambda image: image.size)
    errors = SimpleNamespace(Error=KeyError)
    Settings = staticmethod(dict)

    def __init__(self):
        self.begun, self.logged = [], []

    def init(self, **given):
        self.begun.append(given)
        return SimpleNamespace(
            define_metric=lambda *_, **__: None,
            log=self.logged.append,
            finish=lambda: self.logged.append("finished"),
        )


@pytest.fixture
def stub(monkeypatch):
    stub = Stub()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return stub


@pytest.mark.parametrize("kind", [Config, ClassificationConfig])
def test_wandb_gets_config_numbers_and_images(tmp_path, stub, kind):
    tracker = WeightsAndBiases(tmp_path, settings(kind))
    tracker.scalars({"loss": 0.5}, 3)
    tracker.image("val/samples", Image.new("RGB", (8, 6)), 3)
    tracker.close()
    (begun,) = stub.begun
    assert (begun["mode"], begun["project"], begun["dir"], begun["name"]) == (
        "offline",
        "tries",
        str(tmp_path),
        tmp_path.name,
    )
    assert begun["config"]["training"]["project"] == "tries"
    assert stub.logged == [{"loss": 0.5, "step": 3}, {"val/samples": (8, 6), "step": 3}, "finished"]


def test_a_resumed_run_keeps_its_id(tmp_path, stub):
    for mode in ("offline", "online"):
        config = settings()
        config.training.wandb = mode
        WeightsAndBiases(tmp_path, config)
    WeightsAndBiases(tmp_path.parent, settings())
    first, resumed, other = stub.begun
    assert first["id"] == resumed["id"] != other["id"]
    assert "resume" not in first
    assert resumed["resume"] == "allow"


def test_what_wandb_refuses_is_one_line(tmp_path, stub, monkeypatch):
    monkeypatch.setattr(
        stub, "init", lambda **_: (_ for _ in ()).throw(KeyError("no\nkey")), raising=False
    )
    with pytest.raises(InputError, match="training.wandb offline: "):
        WeightsAndBiases(tmp_path, settings())


@pytest.mark.parametrize("there", [None, SimpleNamespace()])
def test_without_wandb_it_is_reported_before_anything_is_written(
    config, tmp_path, monkeypatch, there
):
    """A folder of that name in the working directory is not the package."""
    monkeypatch.setitem(sys.modules, "wandb", there)
    config.training.wandb = "offline"
    with pytest.raises(InputError, match=r"pip install \"kanseg\[tracking\]\""):
        train(config)
    assert not (tmp_path / "run").exists()


def test_the_real_wandb_writes_into_the_run_folder(config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    import_wandb()
    config.training.wandb, config.training.epochs = "offline", 1
    train(config)
    config.training.epochs = 2
    train(config, resume=True)
    folder = tmp_path / "run" / "wandb"
    name = (folder / "id.txt").read_text()
    assert {p.name for p in folder.glob("offline-run-*/run-*.wandb")} == {f"run-{name}.wandb"}
    assert list(folder.glob("offline-run-*/files/media/images/val/*.png"))
    assert [
        json.loads(line)["step"]
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
        if "val" in line
    ] == [2, 4]
