import numpy as np
import pytest
import torch
from torch import nn

import kanseg
from conftest import write_segmenter
from kanseg.data import Preprocess
from kanseg.inference import Predictor
from kanseg.inference.predictor import resized_rows
from kanseg.inference.sliding_window import gaussian_window, tile_positions
from kanseg.inference.sources import ArrayImage
from kanseg.training.run import train
from kanseg.training.run_folder.logging import plain
from kanseg.utils.errors import InputError


class Brightness(nn.Module):
    """One logit: the mean of the channels."""

    def forward(self, x):
        return x.mean(dim=1, keepdim=True)


def predictor(**options):
    preprocess = Preprocess(mean=(0.5,), std=(0.25,), resize=options.pop("resize", None))
    return Predictor(
        Brightness(),
        preprocess,
        classes=["dark", "bright"],
        colors=[(0, 0, 0), (255, 255, 255)],
        task="binary",
        device="cpu",
        **options,
    )


IMAGE = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
TRUTH = (IMAGE.mean(axis=2) > 127.5).astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (16, 32)},
        {"tile": (512, 512)},
        {"flips": 4},
        {"tile": (32, 32), "flips": 2, "overlap": 0.0},
    ],
)
def test_masks_are_right_whole_and_in_tiles_and_flipped(options):
    mask = predictor(**options)(IMAGE)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, TRUTH)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE[:, :, 0],
        IMAGE[:, :, :1],
        IMAGE[:, :, :2],
        np.dstack([IMAGE, IMAGE[:, :, :1]]),
        IMAGE.astype(np.uint16) * 257,
        IMAGE[:1, :1],
    ],
)
@pytest.mark.parametrize("resize", [None, (32, 40)])
def test_every_kind_of_image_gives_a_mask_of_its_own_size(image, resize):
    assert predictor(resize=resize)(image).shape == image.shape[:2]


def test_16_bits_give_the_mask_of_8_bits():
    assert np.array_equal(predictor()(IMAGE.astype(np.uint16) * 257), TRUTH)


def test_probabilities_sum_to_one():
    for options in ({}, {"tile": (16, 16)}, {"resize": (32, 32)}):
        torch.testing.assert_close(
            predictor(**options).probabilities(IMAGE).sum(dim=0), torch.ones(61, 83)
        )


@pytest.mark.parametrize(
    "image",
    [
        "a.png",
        IMAGE.astype(np.float32),
        IMAGE[None],
        np.zeros((0, 3, 3), np.uint8),
        np.zeros((4, 4, 7), np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(InputError, match="expected|channels|float32 values"):
        predictor()(image)


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": 1.0},
        {"batch_size": 0},
        {"tile": (0, 8)},
        {"precision": "int8"},
        {"flips": 3},
        {"scales": (0,)},
    ],
)
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
    assert (
        stored.classes
        == kanseg.from_pretrained(config.run_dir + "/folder").class_names
        == loaded.classes
    )
    assert np.array_equal(stored(IMAGE), loaded(IMAGE))
    from kanseg.evaluation.evaluate import evaluate_checkpoint

    again = evaluate_checkpoint(config.run_dir, "test", device="cpu")
    for scores in (again, results["test"]):  # probabilities may differ in the last bit
        scores["calibration"] = round(scores["calibration"]["ece"], 6)
        scores["per_image"] |= {
            name: round(scores["per_image"][name], 6) for name in ("mean_ece", "mean_brier")
        }
    assert plain(again) == plain(results["test"])  # NaN does not equal itself, None does


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        kanseg.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=tmp_path.name):
        kanseg.load(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{}, {"tile": (16, 24), "flips": 2, "overlap": 0.7}, {"resize": (32, 40)}],
)
@pytest.mark.parametrize("rows", [1, 5, 16, 40, 61])
def test_row_chunks_of_any_size_are_the_whole_bit_for_bit(options, rows):
    whole = predictor(**dict(options)).probabilities(IMAGE)
    chunks = list(predictor(**dict(options)).row_chunks([ArrayImage(IMAGE)], chunk_rows=rows))
    assert [top for top, _ in chunks] == list(range(0, 61, rows))
    assert torch.equal(torch.cat([chunk for _, chunk in chunks], dim=2)[0], whole)


def test_tiles_are_those_that_are_cut_by_hand():
    """Each pixel: the mean of the tiles that hold it, weighted by the window."""
    model = nn.Conv2d(3, 1, 5, padding=2)
    by_tiles = Predictor(
        model,
        Preprocess(),
        classes=["a", "b"],
        colors=[(0, 0, 0)] * 2,
        task="binary",
        tile=(16, 24),
        overlap=0.3,
        batch_size=3,
        device="cpu",
    )
    rows, columns, height, width = tile_positions((61, 83), (16, 24), 0.3)
    total, weight = np.zeros((61, 83)), np.zeros((61, 83))
    for row in rows:
        for column in columns:
            piece = (
                torch.from_numpy(
                    IMAGE[row : row + height, column : column + width].astype(np.float32) / 255
                    - 0.5
                ).permute(2, 0, 1)
                / 0.25
            )
            place = np.s_[row : row + height, column : column + width]
            total[place] += (
                torch.sigmoid(model(piece[None]))[0, 0].detach().numpy()
                * gaussian_window(height, width).numpy()
            )
            weight[place] += gaussian_window(height, width).numpy()
    np.testing.assert_allclose(by_tiles.probabilities(IMAGE)[1], total / weight, atol=1e-6)


@pytest.mark.parametrize("shape", [(61, 83), (20, 17), (200, 31), (12, 16)])
def test_rows_are_scaled_as_torch_scales_the_whole(shape):
    values = torch.rand(2, 3, 12, 16)
    expected = nn.functional.interpolate(values, size=shape, mode="bilinear", align_corners=False)
    found = torch.cat(
        [resized_rows(values, shape, top, min(top + 7, shape[0])) for top in range(0, shape[0], 7)],
        dim=2,
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"flips": 8}, {"scales": (0.5, 1.0, 1.5)}, {"flips": 8, "tile": (16, 32), "scales": (2.0,)}],
)
def test_a_constant_image_has_the_same_probability_in_all_views(options):
    image = np.full((40, 50, 3), 100, np.uint8)
    torch.testing.assert_close(
        predictor(**options).probabilities(image), predictor().probabilities(image)
    )
    assert predictor(**options).uncertainty(image).max() < 1e-6


def test_uncertainty_of_two_views_by_hand():
    """A network that says 0.8 left and 0.2 right, whatever it sees: mirrored, both say both."""

    class Side(nn.Module):
        def forward(self, x):
            left = torch.arange(x.shape[-1]) < x.shape[-1] // 2
            return torch.logit(torch.where(left, 0.8, 0.2)).expand(len(x), 1, *x.shape[-2:])

    options = {"classes": ["a", "b"], "colors": [(0, 0, 0)] * 2, "task": "binary", "device": "cpu"}
    both = Predictor(Side(), Preprocess(), flips=2, **options)
    torch.testing.assert_close(both.probabilities(IMAGE[:, :80]), torch.full((2, 61, 80), 0.5))
    torch.testing.assert_close(both.uncertainty(IMAGE[:, :80]), torch.full((61, 80), 0.09))
    entropy = -(0.8 * np.log2(0.8) + 0.2 * np.log2(0.2))
    torch.testing.assert_close(
        Predictor(Side(), Preprocess(), **options).uncertainty(IMAGE[:, :80]),
        torch.full((61, 80), float(entropy)),
    )


def test_half_precision_is_near_and_probabilities_are_float32():
    half = predictor(precision="bf16").probabilities(IMAGE)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, predictor().probabilities(IMAGE), atol=0.02, rtol=0)


def test_modes_choose_between_whole_images_and_tiles(config):
    train(config)
    for options, tile in (
        ({}, (512, 512)),
        ({"mode": "whole"}, None),
        ({"tile": (16, 20)}, (16, 20)),
        ({"mode": "tiles"}, (512, 512)),
    ):
        assert kanseg.load(config.run_dir, device="cpu", **options).tile == tile
    with pytest.raises(InputError, match="mode.*whole.*all"):
        kanseg.load(config.run_dir, mode="all")


def test_a_tile_for_whole_images_is_refused(tmp_path):
    checkpoint = write_segmenter(tmp_path / "net")
    with pytest.raises(InputError, match=r"mode whole .*\(8, 8\)"):
        Predictor.from_checkpoint(checkpoint, mode="whole", tile=(8, 8))
