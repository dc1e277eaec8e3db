import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import make_folder
from kanseg.config import (
    ClassificationConfig,
    ClassificationData,
    ClassificationTraining,
    Config,
    DataConfig,
    ModelConfig,
    TrainingConfig,
)
from kanseg.data.splits.record import Content, SplitRecord, read_record
from kanseg.evaluation.evaluate import evaluate_checkpoint
from kanseg.experiments.compare.report import data_warnings
from kanseg.inference.checkpoint import read_weights
from kanseg.training.run import train
from kanseg.utils.errors import InputError


def settings(root, run, epochs=1, **data):
    return Config(
        run_dir=str(run),
        data=DataConfig(root=str(root), workers=0, resize=[16, 16], **data),
        model=ModelConfig("unet", "none", options={"width": 4, "depth": 2}),
        training=TrainingConfig(
            epochs=epochs, batch_size=4, tensorboard=False, report=False, surface=False
        ),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Sets, and runs that were trained on them for an epoch: with lists, and without."""
    base = tmp_path_factory.mktemp("trained")
    for name, splits in (("lists", True), ("seeded", False)):
        make_folder(base / name / "set", count=12, scale=255, splits=splits)
        train(settings(base / name / "set", base / name / "run"))
    return base


@pytest.fixture
def copied(trained, tmp_path):
    """The same, to be changed."""
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def go_on(place, **options):
    return train(settings(place / "set", place / "run", epochs=2), resume=True, **options)


def write_lists(root, **lists):
    for split, numbers in lists.items():
        (root / f"{split}.txt").write_text("".join(f"p{i:02d}\n" for i in numbers))


def add_images(root, count=3):
    for i in range(count):
        for kind in ("images", "masks"):
            with Image.open(root / kind / "p00.png") as image:
                turned = np.rot90(np.asarray(image), i + 1)
            Image.fromarray(np.ascontiguousarray(turned)).save(root / kind / f"new{i}.png")


def test_a_run_and_each_of_its_checkpoints_store_the_split(trained):
    run = trained / "lists" / "run"
    record = read_record(run)
    expected = {
        "train": ["images/p00.png", "images/p01.png", "images/p02.png", "images/p03.png"],
        "val": ["images/p04.png", "images/p05.png", "images/p06.png", "images/p07.png"],
        "test": ["images/p08.png", "images/p09.png", "images/p10.png", "images/p11.png"],
    }
    assert {split: list(members) for split, members in record.splits.items()} == expected
    assert read_record(run / "best") == read_record(run / "last") == record
    assert "split.json" in json.loads((run / "best" / "manifest.json").read_text())["files"]


def test_a_grown_set_is_resumed_bit_equal_on_the_samples_of_the_run(copied, tmp_path, capsys):
    for name in ("same", "grown"):
        shutil.copytree(copied / "seeded", tmp_path / name, symlinks=True)
    add_images(tmp_path / "grown" / "set")
    go_on(tmp_path / "same")
    capsys.readouterr()
    go_on(tmp_path / "grown")
    assert "3 images are new" in capsys.readouterr().out
    weights = [read_weights(tmp_path / name / "run" / "last") for name in ("same", "grown")]
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    assert read_record(tmp_path / "grown" / "run") == read_record(copied / "seeded" / "run")


def test_new_images_are_trained_on_if_accepted(copied, capsys):
    before = read_record(copied / "seeded" / "run")
    add_images(copied / "seeded" / "set")
    go_on(copied / "seeded", accept_changes=True)
    after = read_record(copied / "seeded" / "run" / "last")
    assert sum(map(len, after.splits.values())) == 15
    for split, members in before.splits.items():
        assert members.items() <= after.splits[split].items()
    assert "new images in train" in capsys.readouterr().out


def test_edited_lists_are_refused_or_accepted_with_a_warning(copied, capsys):
    place = copied / "lists"
    write_lists(place / "set", train=range(4, 8), val=range(8, 12), test=range(4))
    with pytest.raises(InputError, match="moved from train to test: 4 images: images/p00.png"):
        go_on(place)
    go_on(place, accept_changes=True)
    out = capsys.readouterr().out
    assert "4 of 4 images of test" in out
    with pytest.raises(InputError, match="all 4 images of test"):
        evaluate_checkpoint(place / "run" / "last", "test", device="cpu")


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_file_that_is_gone_or_has_another_content_is_refused(copied, kind):
    place = copied / "lists"
    path = place / "set" / kind / "p01.png"
    with Image.open(path) as image:
        turned = np.rot90(np.asarray(image), 2)
    Image.fromarray(np.ascontiguousarray(turned)).save(path)
    with pytest.raises(InputError, match="another (image|mask).*p01.png"):
        go_on(place)


def test_a_file_that_is_gone_from_a_set_without_lists_is_refused(copied):
    name = next(iter(read_record(copied / "seeded" / "run").splits["train"]))
    for kind in ("images", "masks"):
        (copied / "seeded" / "set" / kind / Path(name).name).unlink()
    with pytest.raises(InputError, match=f"missing from train: 1 images: {name}"):
        go_on(copied / "seeded")


def test_evaluate_leaves_out_what_was_trained_on(copied, capsys):
    place = copied / "lists"
    root = str(place / "set")
    write_lists(place / "set", train=range(1, 8), test=[0, 8, 9])
    scores = evaluate_checkpoint(place / "run", "test", root=root, device="cpu")
    out = capsys.readouterr().out
    assert scores["images"] == 2
    assert "1 of 3 images" in out
    assert "images/p00.png" in out
    assert "2 images that this run has in test" in out
    assert evaluate_checkpoint(place / "run", "train", root=root, device="cpu")["images"] == 7
    assert "3 of these 7 images" in capsys.readouterr().out


def test_evaluate_knows_a_renamed_image_and_one_of_another_set(copied, tmp_path):
    place = copied / "lists"
    other = make_folder(tmp_path / "other", count=6, size=(24, 24), scale=255)
    for kind in ("images", "masks"):
        shutil.copy(place / "set" / kind / "p02.png", other / kind / "stranger.png")
    (other / "test.txt").write_text("p00\np01\nstranger\n")
    scores = evaluate_checkpoint(place / "run", "test", root=str(other), device="cpu")
    assert scores["images"] == 2


def test_a_run_that_has_stored_no_split_goes_on_with_a_warning(copied, capsys):
    place = copied / "lists"
    for name in ("best", "last"):
        folder = (place / "run" / name).resolve()
        (folder / "split.json").unlink(missing_ok=True)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"].pop("split.json", None)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    evaluate_checkpoint(place / "run", "test", root=str(place / "set"), device="cpu")
    assert "no record of its splits" in capsys.readouterr().out
    go_on(place)
    assert "no record of its splits" in capsys.readouterr().out
    assert not read_record(place / "run" / "last").complete


def test_another_test_split_may_be_measured_by_a_resumed_run_unless_trained_on(copied):
    place = copied / "lists"
    write_lists(place / "set", other=[10, 11], leak=[0, 11])
    again = settings(place / "set", place / "run", epochs=1, test=["other"])
    assert train(again, resume=True)["test"]["images"] == 2
    leak = replace(again, data=replace(again.data, test=["leak"]))
    with pytest.raises(InputError, match="p00"):
        train(leak, resume=True)


def test_folds_of_a_grown_set_stay_where_the_run_has_them(trained, tmp_path, capsys):
    shutil.copytree(trained / "seeded" / "set", tmp_path / "set")
    one = settings(tmp_path / "set", tmp_path / "run", folds=3, fold=1)
    train(one)
    before = read_record(tmp_path / "run")
    add_images(tmp_path / "set")
    capsys.readouterr()
    train(replace(one, training=replace(one.training, epochs=2)), resume=True)
    assert "3 images are new" in capsys.readouterr().out
    assert read_record(tmp_path / "run" / "last") == before


def test_class_folders_that_grow_and_move_are_held_to_the_run(tmp_path, capsys):
    rng = np.random.default_rng(0)
    root = tmp_path / "set"
    for name, level in (("cat", 40), ("dog", 160)):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = (rng.integers(0, 60, (8, 8, 3)) + level).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    config = ClassificationConfig(
        run_dir=str(tmp_path / "run"),
        data=ClassificationData(root=str(root), workers=0, val_share=0.25),
        model=ModelConfig("simple_kan_4", "none", stem=None, options={"width": 4}),
        training=ClassificationTraining(epochs=1, batch_size=8, tensorboard=False, report=False),
    )
    train(config)
    before = read_record(tmp_path / "run" / "best")
    assert sum(map(len, before.splits.values())) == 24
    assert "cat/0.png" in before.samples
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "cat" / "new.png")
    capsys.readouterr()
    longer = replace(config, training=replace(config.training, epochs=2))
    train(longer, resume=True)
    assert "1 images are new" in capsys.readouterr().out
    assert read_record(tmp_path / "run" / "last") == before
    moved = next(iter(before.splits["train"]))
    other = {"cat": "dog", "dog": "cat"}[Path(moved).parent.name]
    (root / moved).rename(root / other / "moved.png")
    longer = replace(config, training=replace(config.training, epochs=3))
    with pytest.raises(InputError, match=f"{moved} is now {other}/moved.png"):
        train(longer, resume=True)


def test_runs_on_other_samples_are_not_compared_without_a_word(tmp_path):
    for name, count in (("a", 3), ("b", 3), ("c", 4)):
        members = {f"images/{i}.png": Content(f"{i:016x}") for i in range(count)}
        (tmp_path / name).mkdir()
        (tmp_path / name / "split.json").write_text(SplitRecord({"train": members}).to_json())
    runs = {name: {0: tmp_path / name} for name in ("a", "b", "c")}
    (line,) = data_warnings(runs)
    assert f"{tmp_path / 'c'} were trained on other samples than {tmp_path / 'a'}" in line
    del runs["c"]
    assert data_warnings(runs | {"older": {0: tmp_path}}) == []


def test_a_copy_whose_images_were_saved_anew_is_recognized_by_its_names(copied, tmp_path, capsys):
    place, other = copied / "seeded", tmp_path / "anew"
    shutil.copytree(place / "set", other)
    for path in (other / "images").iterdir():
        Image.open(path).save(path, compress_level=1)
    names = [path.stem for path in (other / "images").iterdir()]
    (other / "test.txt").write_text("\n".join(names))
    scores = evaluate_checkpoint(place / "run", "test", root=str(other))
    assert scores["images"] == len(names)
    printed = capsys.readouterr().out
    assert "warning: 10 of 12 images have the names of training images" in printed
    assert "none of these" not in printed


def name_classes(root, classes, mask_values):
    (root / "dataset.yaml").write_text(
        f"task: binary\nclasses: {json.dumps(classes)}\nmask_values: {mask_values}\n"
    )


def test_a_trained_image_that_was_renamed_and_moved_is_left_out_after_an_accepted_change(copied):
    place = copied / "lists"
    root = place / "set"
    train_names = (root / "train.txt").read_text().split()
    for folder in ("images", "masks"):
        (root / folder / f"{train_names[0]}.png").rename(root / folder / "other.png")
    # And one that was saved in another format, so that its bytes are others too.
    Image.open(root / "images" / f"{train_names[1]}.png").save(
        root / "images" / f"{train_names[1]}.bmp"
    )
    (root / "images" / f"{train_names[1]}.png").unlink()
    test_names = (root / "test.txt").read_text().split()
    (root / "train.txt").write_text("\n".join(train_names[2:]))
    (root / "test.txt").write_text("\n".join([*test_names, "other", train_names[1]]))
    go_on(place, accept_changes=True)
    scores = evaluate_checkpoint(place / "run" / "last", "test", root=str(root))
    assert scores["images"] == len(test_names)


def test_classes_in_another_order_are_refused(copied):
    place = copied / "seeded"
    name_classes(place / "set", ["foreground", "background"], "{0: 1, 255: 0}")
    with pytest.raises(InputError, match="another order.*'foreground' is 0 here and was 1"):
        evaluate_checkpoint(place / "run", "test", root=str(place / "set"))
    with pytest.raises(InputError, match="another order"):
        go_on(place)
    with pytest.raises(InputError, match="another order"):
        go_on(place, accept_changes=True)


def test_masks_that_mean_something_else_are_refused(copied):
    """The same files and class names, and yet inverted labels."""
    place = copied / "seeded"
    name_classes(place / "set", ["background", "foreground"], "{0: 1, 255: 0}")
    with pytest.raises(InputError, match="mask_values"):
        go_on(place)


def test_renamed_classes_are_logged(copied, capsys):
    place = copied / "seeded"
    name_classes(place / "set", ["background", "gland"], "{0: 0, 255: 1}")
    evaluate_checkpoint(place / "run", "test", root=str(place / "set"))
    assert "other names than those of the training" in capsys.readouterr().out
    go_on(place)
    assert "foreground is gland here" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [["b", "a"], ["a", "b", "c"]])
def test_labels_of_arrays_in_another_order_or_number_are_refused(tmp_path, classes):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (20, 8, 8), dtype=np.uint8)
    labels = np.arange(20) % 2

    def save(names):
        y = np.array([names.index("ab"[label]) for label in labels])
        arrays = {"x_train": x[:14], "y_train": y[:14], "x_test": x[14:], "y_test": y[14:]}
        np.savez(tmp_path / "set.npz", **arrays, classes=np.array(names))

    save(["a", "b"])
    config = ClassificationConfig(
        run_dir=str(tmp_path / "run"),
        data=ClassificationData(root=str(tmp_path / "set.npz"), channels=1, workers=0),
        model=ModelConfig("simple_kan_4", "none"),
        training=ClassificationTraining(epochs=1, batch_size=4, tensorboard=False, report=False),
    )
    train(config)
    save(classes)
    with pytest.raises(InputError, match="another order|2 classes .a, b."):
        longer = replace(config, training=replace(config.training, epochs=2))
        train(longer, resume=True, accept_changes=True)
