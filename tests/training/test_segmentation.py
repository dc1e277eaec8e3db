import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from kanseg.data import open_data
from kanseg.inference import Predictor
from kanseg.training.loop import log_epoch
from kanseg.training.run import train
from kanseg.training.segmentation import SegmentationTask
from kanseg.training.state import Progress
from kanseg.utils.errors import InputError


def bands(folder, dtype, count):
    """The images of a data set as TIFF files of so many bands."""
    rng = np.random.default_rng(0)
    for path in sorted((folder / "images").iterdir()):
        path.unlink()
        values = rng.integers(0, 4000, (32, 40, count)).astype(dtype)
        tifffile.imwrite(
            path.with_suffix(".tif"), values, photometric="minisblack", planarconfig="contig"
        )


def test_five_bands_train_in_crops_around_classes_and_predict(config):
    bands(Path(config.data.root), np.uint16, 5)
    (
        config.data.channels,
        config.data.crop,
        config.data.oversample_foreground,
        config.training.epochs,
    ) = (5, [16, 16], 0.5, 1)
    train(config)
    mask = Predictor.from_checkpoint(config.run_dir)(np.zeros((21, 23, 5), np.uint16))
    assert mask.shape == (21, 23)


def test_floats_train_and_only_floats_are_predicted(config):
    bands(Path(config.data.root), np.float32, 2)
    config.data.channels, config.training.epochs = 2, 1
    train(config)
    predictor = Predictor.from_checkpoint(config.run_dir)
    assert predictor.preprocess.floats
    assert predictor.preprocess.mean[0] > 1000
    assert predictor(np.zeros((9, 9, 2), np.float32)).shape == (9, 9)
    with pytest.raises(InputError, match="the training images hold floats"):
        predictor(np.zeros((9, 9, 2), np.uint8))


def test_a_transform_of_colors_stops_a_run_on_bands_before_it_begins(config):
    bands(Path(config.data.root), np.uint8, 5)
    config.data.channels, config.data.augment = 5, [{"ColorJitter": {"p": 0.01}}]
    with pytest.raises(InputError, match="p00.tif: augmentation ColorJitter"):
        train(config)
    assert not Path(config.run_dir).exists()


def test_another_fold_is_another_run(config):
    config.data.folds, config.data.fold, config.training.epochs = 2, 1, 1
    train(config)
    val_samples = open_data(config.data, log=lambda _: None).samples("val")
    scores = json.loads((Path(config.run_dir) / "metrics.json").read_text())
    assert scores["val"]["images"] == len(val_samples) > 0
    config.data.fold = 0
    with pytest.raises(InputError, match="data.fold: 1 -> 0"):
        train(config, resume=True)


def test_a_network_that_finds_no_foreground_is_said_with_what_to_do(config):
    task = SegmentationTask(config)
    assert task.advice({"foreground_iou": 0.01}) is None
    assert task.advice({"foreground_iou": float("nan")}) is None  # val has none
    assert "training.class_weights" in task.advice({"foreground_iou": 0.0})


@pytest.mark.parametrize(("epoch", "stale", "lines"), [(4, 2, 1), (4, 3, 2), (9, 6, 2)])
def test_advice_is_given_after_some_validations_and_at_the_end(config, epoch, stale, lines):
    config.training.epochs = 9
    progress = Progress(epoch=epoch, best=0.0, best_epoch=1, stale=stale)
    entry = {"epoch": epoch, "train": {"loss": 1.0}, "val": {"foreground_iou": 0.0}}
    logged = []
    state, run = SimpleNamespace(progress=progress), SimpleNamespace(log=logged.append)
    log_epoch(entry, state, SegmentationTask(config), run, 1.0)
    assert len(logged) == lines
