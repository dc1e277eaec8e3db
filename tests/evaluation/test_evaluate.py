import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from commands import kanseg_command
from sklearn.metrics import jaccard_score
from torch import nn
from torch.utils.data import Dataset

from kanseg.data import LabelSpec, Sample, write_png
from kanseg.evaluation.evaluate import evaluate_checkpoint
from kanseg.evaluation.loop import evaluate
from kanseg.evaluation.segmentation import evaluate_network
from kanseg.metrics import calibrations
from kanseg.training.run import train
from kanseg.utils.errors import InputError


class FakeSet(Dataset):
    """Five multilabel images in memory, of one size, each class with its own ignored pixels."""

    label_spec = LabelSpec("multilabel", ("a", "b"))
    one_size = True

    def __init__(self):
        self.samples = [Sample(str(number), Path(), Path()) for number in range(5)]
        self.images = torch.randn(5, 2, 12, 16)
        self.masks = (self.images + 0.7 * torch.randn_like(self.images) > 0).long()
        self.masks[torch.rand(self.masks.shape) < 0.1] = 255

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"image": self.images[index], "mask": self.masks[index], "index": index}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_multilabel_set_scores_class_by_class(batch_size):
    data = FakeSet()
    result = evaluate_network(
        nn.Identity(), data, Accelerator(cpu=True), batch_size=batch_size
    ).compute()
    for i, row in enumerate(result["classes"].values()):
        used = data.masks[:, i] != 255
        assert row["iou"] == pytest.approx(
            jaccard_score(data.masks[:, i][used], data.images[:, i][used] > 0)
        )
    expected = [part.ece for part in calibrations(torch.sigmoid(data.images), data.masks)]
    assert result["per_image"]["mean_ece"] == pytest.approx(sum(expected) / 5)


def test_every_process_takes_its_share_of_an_odd_set():
    """Together they see each image once; real processes are in tests/training/test_processes.py."""
    data = FakeSet()

    class Rank:
        num_processes, device, is_main_process = 2, torch.device("cpu"), False

        def __init__(self, index):
            self.process_index = index

    seen = []
    for rank in (0, 1):
        evaluate(
            lambda batch: batch["image"],
            data,
            lambda predicted, target, indices: seen.append(indices),
            batch_size=2,
            accelerator=Rank(rank),
        )
    assert seen == [[0, 2], [4], [1, 3]]


def test_the_network_is_left_in_its_mode():
    for training in (True, False):
        model = nn.Dropout().train(training)
        evaluate_network(model, FakeSet(), Accelerator(cpu=True))
        assert model.training is training


def test_tiles_of_a_pointwise_network_change_nothing():
    data = FakeSet()
    whole, tiled = (
        evaluate_network(nn.Identity(), data, Accelerator(cpu=True), tile=tile).compute()
        for tile in (None, (8, 8))
    )
    assert tiled["confusion"] == whole["confusion"]
    assert tiled["calibration"]["ece"] == pytest.approx(whole["calibration"]["ece"], abs=1e-6)


@pytest.fixture
def trained(config):
    """A run of one epoch at half the size of its files, measured with a spacing, and what `train`
    gave back.
    """
    config.training.epochs, config.data.resize, config.data.spacing = 1, [16, 20], [1.0, 0.5]
    config.data.augment = []
    return config, train(config)


def test_a_run_is_measured_with_surfaces_and_a_line_a_image(trained):
    config, results = trained
    for split, names in (("val", ["p02", "p03"]), ("test", ["p04", "p05"])):
        text = (Path(config.run_dir) / f"scores_{split}.csv").read_text()
        rows = list(csv.DictReader(text.splitlines()))
        assert [row["name"] for row in rows] == names
        each = [float(row["mean/iou"]) for row in rows]
        assert sum(each) / 2 == pytest.approx(results[split]["per_image"]["mean_iou"], abs=1e-5)
        assert 0 <= results[split]["per_image"]["mean_nsd"] <= 1
    assert "hd95" not in (Path(config.run_dir) / "log.jsonl").read_text()


def test_distances_at_another_size_are_those_of_the_files(trained):
    """A missed disc is the diagonal away in the unit of the spacing, at the network's size as at
    that of the files.
    """
    config, _ = trained
    for full_size in (False, True):
        result = evaluate_checkpoint(config.run_dir, "test", full_size=full_size)
        if result["classes"]["foreground"]["iou"] == 0:
            assert result["per_image"]["mean_hd"] == pytest.approx(math.hypot(32 * 1.0, 40 * 0.5))
        assert result["per_image"]["mean_hd"] <= math.hypot(32 * 1.0, 40 * 0.5)


def test_options_of_surfaces_take_the_place_of_the_settings(trained):
    config, _ = trained
    one = evaluate_checkpoint(config.run_dir, "test", spacing=(1.0, 1.0), tolerance=100.0)[
        "per_image"
    ]
    ten = evaluate_checkpoint(config.run_dir, "test", spacing=(10.0, 10.0), tolerance=100.0)[
        "per_image"
    ]
    assert ten["mean_hd95"] == pytest.approx(10 * one["mean_hd95"])
    assert (
        "mean_hd95" not in evaluate_checkpoint(config.run_dir, "test", surface=False)["per_image"]
    )
    with pytest.raises(InputError, match="spacing must be two positive numbers"):
        evaluate_checkpoint(config.run_dir, "test", spacing=(1.0, -1.0))


def test_scores_of_the_training_split_are_marked(trained, capsys):
    config, _ = trained
    capsys.readouterr()
    assert evaluate_checkpoint(config.run_dir, "train")["training_images"] == 2
    assert "warning: these are training scores" in capsys.readouterr().out
    assert "training_images" not in evaluate_checkpoint(config.run_dir, "test")
    assert "training scores" not in capsys.readouterr().out


def test_the_protocol_of_u_kan_is_added_to_the_scores(trained):
    config, _ = trained
    result = evaluate_checkpoint(config.run_dir, ["val", "test"], protocol="u_kan", batch_size=3)
    assert result["images"] == 4
    assert result["u_kan"]["batch_size"] == 3
    assert {key: value for key, value in result.items() if key in ("mean_iou", "mean_dice")} == {
        key: value
        for key, value in evaluate_checkpoint(config.run_dir, ["val", "test"]).items()
        if key in ("mean_iou", "mean_dice")
    }
    with pytest.raises(InputError, match="not known .known: u_kan"):
        evaluate_checkpoint(config.run_dir, "test", protocol="ukan")


@pytest.mark.parametrize("full_size", [False, True])
def test_pixels_outside_a_field_of_view_are_ignored(trained, tmp_path, full_size):
    config, _ = trained
    for name in ("p04", "p05"):
        field = np.zeros((32, 40), np.uint8)
        field[:, :20] = 255
        write_png(tmp_path / "fov" / f"{name}.png", field)
    result = evaluate_checkpoint(
        config.run_dir, "test", inside=tmp_path / "fov", full_size=full_size
    )
    assert np.sum(result["confusion"]) == 2 * (32 * 20 if full_size else 16 * 10)


def test_fields_of_view_that_do_not_fit_are_reported(trained, tmp_path):
    config, _ = trained
    with pytest.raises(InputError, match="no such folder"):
        evaluate_checkpoint(config.run_dir, "test", inside=tmp_path / "fov")
    write_png(tmp_path / "fov" / "p04.png", np.ones((4, 4), np.uint8))
    with pytest.raises(InputError, match="1 of 2 images have no mask.*p05"):
        evaluate_checkpoint(config.run_dir, "test", inside=tmp_path / "fov")
    write_png(tmp_path / "fov" / "p05.png", np.ones((4, 4), np.uint8))
    with pytest.raises(InputError, match="p04.png: the mask is 4x4 and the image 32x40"):
        evaluate_checkpoint(config.run_dir, "test", inside=tmp_path / "fov")


def test_the_tool_writes_tables_and_names_bad_options(trained, tmp_path):
    config, _ = trained
    files = ["--csv", tmp_path / "out" / "each.csv", "--json", tmp_path / "out" / "all.json"]
    options = ["--protocol", "u_kan", "--spacing", "2", "1"]
    done = kanseg_command("evaluate", "--checkpoint", config.run_dir, *files, *options)
    assert done.returncode == 0, done.stderr
    assert "U-KAN's protocol (mean over batches of 8)" in done.stdout
    assert (tmp_path / "out" / "each.csv").read_text().startswith("name,background/iou")
    assert json.loads((tmp_path / "out" / "all.json").read_text())["u_kan"]["batch_size"] == 8
    failed = kanseg_command("evaluate", "--checkpoint", config.run_dir, "--tolerance", "-1")
    assert failed.returncode == 2
    assert failed.stderr == "error: the tolerance of surfaces must be 0 or more, got -1.0\n"
