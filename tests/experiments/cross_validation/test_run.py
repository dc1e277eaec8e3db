import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import make_folder
from kanseg.cli.train import train_classifier, train_segmentation
from kanseg.config import (
    ClassificationConfig,
    ClassificationData,
    ClassificationTraining,
    Config,
    DataConfig,
    ModelConfig,
    TrainingConfig,
)
from kanseg.data.splits.record import read_record
from kanseg.experiments.cross_validation.run import cross_validate, fold_folder
from kanseg.training.run_folder.resume import lock_run
from kanseg.utils.errors import InputError
from tests.training.test_processes import finish, trained

GROUPS = {f"p{number:02d}": f"g{number // 2}" for number in range(6)}


def make_config(folder):
    """Two folds of four images in two groups, and two test images."""
    root = make_folder(folder / "set", count=6, scale=255)
    lines = [f"{name},{group}\n" for name, group in GROUPS.items()]
    (root / "groups.csv").write_text("".join(lines))
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(root=str(root), workers=0, folds=2),
        model=ModelConfig("unet", "none", options={"width": 2, "depth": 1}),
        training=TrainingConfig(
            epochs=1, batch_size=2, report=False, tensorboard=False, surface=False, lr=0.01
        ),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(settings, summary) of a cross-validation."""
    config = make_config(tmp_path_factory.mktemp("folds"))
    return config, cross_validate(config)


def folders(config):
    return [fold_folder(Path(config.run_dir), fold) for fold in range(config.data.folds)]


def metrics(config):
    return [json.loads((run / "metrics.json").read_text()) for run in folders(config)]


def stamps(config):
    return [(run / "metrics.json").stat().st_mtime_ns for run in folders(config)]


def test_each_image_is_scored_once_by_the_network_that_was_not_trained_on_it(finished):
    config, summary = finished
    with (Path(config.run_dir) / "scores_out_of_fold.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["name"] for row in rows) == [f"p{number:02d}" for number in range(4)]
    for row in rows:
        trained_on = read_record(folders(config)[int(row["fold"])]).splits["train"]
        assert f"images/{row['name']}.png" not in trained_on
    assert summary["out_of_fold"]["images"] == 4
    assert summary["warnings"] == []


def test_groups_are_on_one_side_of_every_fold(finished):
    config, _ = finished
    for run in folders(config):
        sides = []
        for split in ("train", "val"):
            names = [name[7:10] for name in read_record(run).splits[split]]
            sides.append({GROUPS[name] for name in names})
        assert sides[0].isdisjoint(sides[1])


def test_the_score_out_of_fold_is_that_of_the_pixels_of_all_folds(finished):
    config, summary = finished
    total = sum(np.array(each["val"]["confusion"]) for each in metrics(config))
    expected = total[1, 1] / (total[1, 1] + total[0, 1] + total[1, 0])
    assert summary["out_of_fold"]["foreground_iou"] == pytest.approx(expected)
    values = []
    for run in folders(config):
        with (run / "scores_val.csv").open() as stream:
            values += [float(row["foreground/iou"]) for row in csv.DictReader(stream)]
    found = summary["out_of_fold"]["per_image"]
    assert found["classes"]["foreground"]["iou"] == pytest.approx(np.mean(values))
    assert found["foreground_iou"] == pytest.approx(np.mean(values))


def test_means_and_deviations_are_those_of_the_folds(finished):
    config, summary = finished
    for split in ("val", "test"):
        values = [each[split]["mean_dice"] for each in metrics(config)]
        found = summary["over_folds"][split]["mean_dice"]
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["std"] == pytest.approx(np.std(values, ddof=1))


def test_the_same_call_continues_a_stopped_fold_and_leaves_finished_ones(finished, capsys):
    config, summary = finished
    before = stamps(config)
    (folders(config)[1] / "metrics.json").unlink()
    again = cross_validate(config)
    assert again["out_of_fold"] == summary["out_of_fold"]
    assert [old == new for old, new in zip(before, stamps(config), strict=True)] == [1, 0]
    out = capsys.readouterr().out
    assert f"folds: {folders(config)[0]} is finished" in out
    assert f"resumed from {folders(config)[1]}" in out
    best = " ".join(str(run / "best") for run in folders(config))
    assert f"kanseg predict --checkpoint {best} --input" in out
    assert (Path(config.run_dir) / "table.md").read_text() in out + "\n"
    names = ("table.csv", "table.json", "folds.png")
    assert all((Path(config.run_dir) / name).is_file() for name in names)


def test_a_fold_of_another_process_is_left_to_it(finished, capsys):
    config, _ = finished
    run = folders(config)[1]
    content = (run / "metrics.json").read_text()
    (run / "metrics.json").unlink()
    with lock_run(run):
        assert cross_validate(config) is None
    out = capsys.readouterr().out
    assert "is being trained by another process" in out
    assert f"not finished yet, so there is no summary: {run}" in out
    (run / "metrics.json").write_text(content)


def test_other_settings_are_refused_before_anything_is_trained(finished):
    config, _ = finished
    before = stamps(config)
    changed = replace(config, training=replace(config.training, lr=0.5))
    with pytest.raises(InputError, match="training.lr: 0.01 -> 0.5.*--overwrite"):
        cross_validate(changed)
    more = replace(config, data=replace(config.data, folds=3))
    with pytest.raises(InputError, match="data.folds: 2 -> 3"):
        cross_validate(more)
    assert stamps(config) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 0}, "needs data.folds, a number of 2 or more"),
        ({"folds": 1}, "needs data.folds, a number of 2 or more"),
        ({"folds": 3, "fold": 1}, "data.fold chooses fold 1"),
        ({"folds": 3}, "3 folds need as many groups, and train [+] val have 2"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(changes, message, tmp_path):
    config = make_config(tmp_path)
    config.data = replace(config.data, **changes)
    with pytest.raises(InputError, match=message):
        cross_validate(config)
    assert not Path(config.run_dir).exists()


def test_a_folder_with_a_single_run_is_refused(finished):
    config, _ = finished
    with pytest.raises(InputError, match="fold_0 holds a single run"):
        cross_validate(replace(config, run_dir=str(folders(config)[0])))


def test_a_plain_resume_is_not_needed(finished):
    config, _ = finished
    with pytest.raises(InputError, match="without --resume"):
        train_segmentation(["--data.folds", "3", "--all_folds", "--resume"])
    for words in (["--all_folds", "3"], ["--all-folds=3"]):
        with pytest.raises(InputError, match=r"--data\.folds 3 --all_folds"):
            train_segmentation(words)


def test_the_command_trains_the_folds_of_a_classifier(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    images = (rng.integers(0, 80, (24, 8, 8)) + 150 * labels[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels)
    config = ClassificationConfig(
        run_dir=str(tmp_path / "run"),
        data=ClassificationData(root=str(tmp_path / "set.npz"), channels=1, workers=0, folds=2),
        model=ModelConfig("simple_kan_4", "none", options={"width": 2}),
        training=ClassificationTraining(epochs=1, batch_size=8, report=False, tensorboard=False),
    )
    (tmp_path / "settings.yaml").write_text(config.to_yaml())
    train_classifier(["--config", str(tmp_path / "settings.yaml"), "--all_folds"])
    summary = json.loads((tmp_path / "run/table.json").read_text())
    total = sum(np.array(each["val"]["confusion"]) for each in metrics(config))
    assert total.sum() == 24
    assert summary["out_of_fold"]["top1"] == pytest.approx(np.trace(total) / 24)
    assert "| out of fold" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_train_the_folds_once_and_end_as_one_does(finished, tmp_path):
    config, summary = finished
    two = replace(config, run_dir=str(tmp_path / "two"))
    code, out, error = finish(trained(two, "--all_folds"))
    assert code == 0, error[-2000:]
    assert out.count("| out of fold") == 1
    found = json.loads((tmp_path / "two/table.json").read_text())
    assert found["out_of_fold"]["images"] == summary["out_of_fold"]["images"]
    before = stamps(two)
    (folders(two)[1] / "metrics.json").unlink()
    code, out, error = finish(trained(two, "--all_folds"))
    assert code == 0, error[-2000:]
    assert out.count(f"folds: {folders(two)[0]} is finished") == 1
    assert [old == new for old, new in zip(before, stamps(two), strict=True)] == [1, 0]
    again = json.loads((tmp_path / "two/table.json").read_text())
    assert again["out_of_fold"] == found["out_of_fold"]
