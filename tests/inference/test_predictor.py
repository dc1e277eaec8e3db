import numpy as np
import pytest
import torch
from torch import nn

import kanseg
from kanseg.data import Preprocess
from kanseg.errors import InputError
from kanseg.inference import Predictor
from kanseg.training.log import plain
from kanseg.training.run import train


class Brightness(nn.Module):
    """One logit: the mean of the channels."""

    def forward(self, x):
        return x.mean(dim=1, keepdim=True)


def predictor(**options):
    preprocess = Preprocess(mean=(0.5,), std=(0.25,), resize=options.pop("resize", None))
    return Predictor(Brightness(), preprocess, classes=["dark", "bright"], colours=[(0, 0, 0), (255, 255, 255)], task="binary", device="cpu", **options)


IMAGE = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
TRUTH = (IMAGE.mean(axis=2) > 127.5).astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 32)}, {"tile": (512, 512)}, {"flips": 4}, {"tile": (32, 32), "flips": 2, "overlap": 0.0}])
def test_masks_are_right_whole_and_in_tiles_and_flipped(options):
    mask = predictor(**options)(IMAGE)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, TRUTH)


@pytest.mark.parametrize(
    "image", [IMAGE[:, :, 0], IMAGE[:, :, :1], IMAGE[:, :, :2], np.dstack([IMAGE, IMAGE[:, :, :1]]), IMAGE.astype(np.uint16) * 257, IMAGE[:1, :1]]
)
@pytest.mark.parametrize("resize", [None, (32, 40)])
def test_every_kind_of_picture_gives_a_mask_of_its_own_size(image, resize):
    assert predictor(resize=resize)(image).shape == image.shape[:2]


def test_16_bits_give_the_mask_of_8_bits():
    assert np.array_equal(predictor()(IMAGE.astype(np.uint16) * 257), TRUTH)


def test_probabilities_sum_to_one():
    for options in ({}, {"tile": (16, 16)}, {"resize": (32, 32)}):
        torch.testing.assert_close(predictor(**options).probabilities(IMAGE).sum(dim=0), torch.ones(61, 83))


@pytest.mark.parametrize("image", ["a.png", IMAGE.astype(np.float32), IMAGE[None], np.zeros((0, 3, 3), np.uint8), np.zeros((4, 4, 7), np.uint8)])
def test_other_arrays_are_refused(image):
    with pytest.raises(InputError, match="expected|channels"):
        predictor()(image)


@pytest.mark.parametrize("options", [{"overlap": 1.0}, {"batch_size": 0}, {"tile": (0, 8)}])
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError):
        predictor(**options)


def test_a_trained_network_is_loaded_with_its_classes_and_predicts_as_in_training(config):
    results = train(config)
    for path in (config.run_dir, f"{config.run_dir}/best"):
        loaded = kanseg.load(path, device="cpu")
        assert loaded.classes == ("background", "foreground")
    loaded.model.save_pretrained(config.run_dir + "/folder")
    stored = kanseg.load(config.run_dir + "/folder", device="cpu")
    assert stored.classes == kanseg.from_pretrained(config.run_dir + "/folder").class_names == loaded.classes
    assert np.array_equal(stored(IMAGE), loaded(IMAGE))
    from kanseg.inference.evaluate import evaluate_checkpoint

    again = evaluate_checkpoint(config.run_dir, "test", device="cpu")
    for scores in (again, results["test"]):  # probabilities may differ in the last bit
        scores["calibration"] = round(scores["calibration"]["ece"], 6)
        scores["per_image"] |= {name: round(scores["per_image"][name], 6) for name in ("mean_ece", "mean_brier")}
    assert plain(again) == plain(results["test"])  # NaN does not equal itself, None does


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint|not a checkpoint"):
        kanseg.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="not a checkpoint"):
        kanseg.load(tmp_path)
