"""Classification on the same engine: what differs from segmentation is tested here, the engine
itself in test_run.py.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kanseg
from kanseg.cli.evaluate import main as evaluate
from kanseg.cli.train import train_command
from kanseg.config import (
    ClassificationConfig,
    ClassificationData,
    ClassificationTraining,
    ModelConfig,
)
from kanseg.evaluation.classification import evaluate_classifier
from kanseg.training.classification import ClassificationTask
from kanseg.training.run import train
from kanseg.training.run_folder.logging import plain, read_log
from kanseg.utils.errors import InputError
from tests.training.run_folder.stopped import copy_stopped


@pytest.fixture
def arrays(tmp_path):
    """60 images of 8x8: a bright quarter, the class says which."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 4
    x = rng.integers(0, 80, (60, 8, 8))
    for i, label in enumerate(y):
        top, left = 4 * (label // 2), 4 * (label % 2)
        x[i, top : top + 4, left : left + 4] += 150
    path = tmp_path / "set.npz"
    np.savez(
        path,
        x_train=x[:48].astype(np.uint8),
        y_train=y[:48],
        x_test=x[48:].astype(np.uint8),
        y_test=y[48:],
    )
    return path


@pytest.fixture
def experiment(tmp_path, arrays):
    return ClassificationConfig(
        run_dir=str(tmp_path / "run"),
        data=ClassificationData(root=str(arrays), channels=1, workers=0, val_share=0.25),
        model=ModelConfig("simple_kan_4", "gram", stem=None, options={"width": 4}),
        training=ClassificationTraining(
            epochs=4, batch_size=6, lr=1e-2, tensorboard=False, panels=4, log_every=1
        ),
    )


def settings(config, **changes):
    return replace(config, training=replace(config.training, **changes))


def test_a_run_learns_and_leaves_what_is_promised(experiment):
    results = train(experiment)
    run = Path(experiment.run_dir)
    assert results["test"]["top1"] > 0.9
    assert results["multiply_adds"] > 0
    assert (
        json.loads((run / "metrics.json").read_text())["test"]["confusion"]
        == results["test"]["confusion"]
    )
    for name in ("curves.png", "confusion.png", "overview.png"):
        assert Image.open(run / name).size[0] > 100
    assert (run / "report.html").read_text().count("<img") == 3 + (run / "worst.png").is_file()
    loaded = kanseg.from_pretrained(run)
    assert loaded(torch.randn(1, 1, 8, 8)).shape == (1, 4)
    classifier, values = kanseg.load(str(run), device="cpu"), np.load(experiment.data.root)
    found = classifier(list(values["x_test"]))
    correct = [one.name == str(y) for one, y in zip(found, values["y_test"], strict=True)]
    assert sum(correct) / len(correct) == pytest.approx(results["test"]["top1"])
    rows = (run / "scores_test.csv").read_text().splitlines()[1:]
    assert [row.split(",")[3] for row in rows] == [str(int(right)) for right in correct]


def test_a_run_is_evaluated_as_it_was_measured(experiment, tmp_path, capsys):
    results = train(settings(experiment, epochs=1))
    words = ["--checkpoint", experiment.run_dir, "--json", str(tmp_path / "a.json")]
    evaluate([*words, "--csv", str(tmp_path / "a.csv"), "--batch_size", "5"])
    scores = json.loads((tmp_path / "a.json").read_text())
    measured = json.loads(json.dumps(plain(results["test"])))
    assert scores["confusion"] == measured["confusion"]
    for name in ("top1", "mean_precision", "mean_recall", "mean_f1", "auc_ovr", "auc_ovo"):
        assert scores[name] == pytest.approx(measured[name], abs=1e-6)
    assert scores["calibration"] == pytest.approx(measured["calibration"], abs=1e-6)
    written = Path(experiment.run_dir, "scores_test.csv").read_text()
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == written.splitlines()[0]
    shown = capsys.readouterr().out
    assert "class \\ predicted  0  1  2  3" in shown
    assert "balanced accuracy" in shown

    val = evaluate_classifier(experiment.run_dir, "val")
    assert val["confusion"] == results["val"]["confusion"]
    both = evaluate_classifier(experiment.run_dir, ["train", "test"])
    assert both["training_images"] == 48 - results["val"]["images"]
    assert both["images"] == both["training_images"] + 12
    with pytest.raises(InputError, match="tset.* did you mean 'test'"):
        evaluate_classifier(experiment.run_dir, "tset")
    with pytest.raises(InputError, match="--full_size measures masks"):
        evaluate([*words, "--full_size"])


def test_another_data_set_is_evaluated_by_the_names_of_its_classes(experiment, tmp_path):
    """Its folders are fewer, so that the numbers of its classes are others."""
    train(settings(experiment, epochs=3))
    values = np.load(experiment.data.root)
    pairs = list(zip(values["x_test"], values["y_test"], strict=True))
    for split in ("train", "test"):
        for number, (image, label) in enumerate(pairs):
            if label in (1, 3):
                path = tmp_path / "new" / split / str(label) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    scores = evaluate_classifier(experiment.run_dir, "test", root=str(tmp_path / "new"))
    expected = evaluate_classifier(experiment.run_dir, "test")
    confusion = np.array(expected["confusion"])
    confusion[[0, 2]] = 0
    assert scores["confusion"] == confusion.tolist()
    (tmp_path / "new/train/3").rename(tmp_path / "new/train/4")
    (tmp_path / "new/test/3").rename(tmp_path / "new/test/4")
    with pytest.raises(InputError, match="knows no class '4'"):
        evaluate_classifier(experiment.run_dir, "test", root=str(tmp_path / "new"))


def test_images_are_mirrored_by_default_unless_they_may_be_digits(experiment, tmp_path, capsys):
    values = np.load(experiment.data.root)
    task = ClassificationTask(experiment)
    task.open(checkpoint=None, log=print)
    assert task.config.data.augment == []
    assert "digits" in capsys.readouterr().out
    for number, image in enumerate(values["x_train"][:8]):
        path = tmp_path / "named" / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    data = replace(experiment.data, root=str(tmp_path / "named"), val=[])
    task = ClassificationTask(replace(experiment, data=data))
    dataset = task.open(checkpoint=None, log=print)
    assert task.config.data.augment == [{"torchvision.RandomHorizontalFlip": {"p": 0.5}}]
    assert "--data.augment '[]'" in capsys.readouterr().out
    plain_image = dataset.without_normalization()[0, 0]["image"]
    seen = {dataset[epoch, 0]["image"].numpy().tobytes() for epoch in range(8)}
    assert len(seen) == 2
    assert plain_image.shape == (8, 8, 1)
    explicit = replace(experiment, data=replace(data, augment=[]))
    task = ClassificationTask(explicit)
    task.open(checkpoint=None, log=print)
    assert task.config == explicit
    assert "data.augment" not in capsys.readouterr().out


def test_settings_read_back_equal(experiment):
    assert ClassificationConfig.from_yaml(experiment.to_yaml()) == experiment


@pytest.mark.parametrize("name", ["kan", "hybrid", "local_kan", "conv_kan"])
def test_flat_networks_take_the_size_of_the_images(experiment, name):
    config = replace(
        experiment,
        model=ModelConfig(name, "bspline", stem=None),
        data=replace(experiment.data, resize=[7, 6]),
    )
    train(settings(config, epochs=1))
    assert kanseg.from_pretrained(experiment.run_dir)(torch.randn(2, 1, 7, 6)).shape == (2, 4)


def test_lbfgs_asks_for_the_loss_many_times_a_step(experiment):
    config = replace(
        experiment, model=ModelConfig("kan", "bspline", stem=None, options={"hidden": [4]})
    )
    options = {
        "optimizer": "lbfgs",
        "optimizer_options": {"max_iter": 10},
        "lr": 1.0,
        "weight_decay": 0.0,
        "clip": None,
    }
    results = train(
        settings(config, batch_size=48, epochs=3, schedule="constant", warmup=0.0, **options)
    )
    losses = [
        entry["loss"] for entry in read_log(Path(config.run_dir) / "log.jsonl") if "loss" in entry
    ]
    assert len(losses) == 3  # one line a step
    assert losses[-1] < 0.2 * losses[0]
    assert results["test"]["top1"] > 0.9


@pytest.mark.parametrize("optimizer", ["lion", pytest.param("lbfgs", marks=pytest.mark.slow)])
def test_a_stopped_and_resumed_run_ends_bit_equal(experiment, tmp_path, optimizer):
    decay = {"weight_decay": 0.0, "clip": None} if optimizer == "lbfgs" else {}
    config = settings(
        experiment,
        optimizer=optimizer,
        mixup=0.4,
        cutmix=1.0,
        lr=1e-3,
        save_every=1,
        keep=50,
        epochs=2,
        **decay,
    )
    augment = [{"RandomCrop": {"size": 8, "padding": 1}}, "RandomHorizontalFlip"]
    config = replace(config, data=replace(config.data, augment=augment))
    whole, broken = (replace(config, run_dir=str(tmp_path / name)) for name in ("whole", "broken"))
    train(whole)

    copy_stopped(whole.run_dir, broken.run_dir, 3)
    train(broken, resume=True)
    weights = [
        (tmp_path / name / "last" / "model.safetensors").read_bytes()
        for name in ("whole", "broken")
    ]
    assert weights[0] == weights[1]
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (
        tmp_path / "broken" / "log.jsonl"
    ).read_text()


@pytest.mark.slow
def test_mixing_and_smoothing_raise_the_loss_of_training_only(experiment):
    plain = train(settings(experiment, epochs=5))
    loss = read_log(Path(experiment.run_dir) / "log.jsonl")[-1]["train"]["loss"]
    mixed = train(settings(experiment, epochs=5, mixup=1.0, label_smoothing=0.1), overwrite=True)
    assert read_log(Path(experiment.run_dir) / "log.jsonl")[-1]["train"]["loss"] > 2 * loss
    assert plain["val"]["images"] == mixed["val"]["images"] > 0
    assert mixed["val"]["top1"] > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, model=ModelConfig("unet")), "unet.*simple_kan_4"),
        (lambda c: replace(c, model=ModelConfig("simple_kan_5")), "did you mean 'simple_kan_"),
        (
            lambda c: replace(c, data=replace(c.data, augment=["RandomCrob"])),
            "did you mean 'RandomCrop'",
        ),
        (lambda c: replace(c, data=replace(c.data, root="nowhere")), "nowhere"),
        (lambda c: replace(c, data=replace(c.data, format="mnits")), "did you mean 'mnist'"),
        (lambda c: settings(c, monitor="mean_iou"), "training.monitor"),
        (lambda c: settings(c, monitor="top5"), "top5.*4 classes"),
        (lambda c: replace(c, data=replace(c.data, val=["train"])), "split train is in data.train"),
        (lambda c: settings(c, optimizer="adamm"), "did you mean 'adamw'"),
        (lambda c: settings(c, optimizer="lbfgs"), "no weight decay"),
        (lambda c: settings(c, schedule="cosin"), "did you mean 'cosine'"),
        (lambda c: settings(c, mixup=-1.0), "at least 0"),
    ],
)
def test_faults_are_named_before_anything_is_written(experiment, change, message):
    with pytest.raises(InputError, match=message):
        train(change(experiment))
    assert not Path(experiment.run_dir).exists()


def test_settings_of_the_other_kind_are_sent_to_their_tool(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {prepare: blue_marble}")
    with pytest.raises(InputError, match="use kanseg train"):
        train_command(
            ["--config", str(tmp_path / "c.yaml")], kind=ClassificationConfig, description=""
        )
