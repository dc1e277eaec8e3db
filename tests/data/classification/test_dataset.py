"""Every format of labeled images, from files that the tests write."""

import gzip
import hashlib
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from kanseg.data import (
    FORMATS,
    ClassificationDataset,
    ImageAugmentation,
    Preprocess,
    channel_statistics,
    open_images,
)
from kanseg.data.classification.archives import IDX_SETS
from kanseg.utils.errors import InputError

RNG = np.random.default_rng(0)


def opened(root, format="auto", **options):
    options.setdefault("log", lambda line: None)
    return open_images(root, format, **options)


def pixels(count, channels=3):
    return RNG.integers(0, 256, (count, 8, 6, channels), dtype=np.uint8)


def save_npz(root, train=40, test=20, **more):
    arrays = {}
    for name, count in (("train", train), ("test", test)):
        arrays |= {f"x_{name}": pixels(count), f"y_{name}": np.arange(count) % 4}
    root.mkdir(exist_ok=True)
    np.savez(
        root / "set.npz",
        **{key: value for key, value in (arrays | more).items() if value is not None},
    )
    return root


def save_folder(root, splits=("train", "val", "test"), classes=("cat", "dog"), count=5):
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels(1)[0]).save(root / split / name / f"{i}.png")
    return root


def save_idx(folder, name="mnist", count=30, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for prefix in ("train", "t10k"):
        images = pixels(count, 1)[..., 0]
        labels = (np.array([*IDX_SETS[name][2], *range(count - 10)]) % 10).astype(np.uint8)
        arrays[prefix] = images, labels
        for kind, values in (("images", images), ("labels", labels)):
            content = (
                bytes((0, 0, 8, values.ndim))
                + np.array(values.shape, ">u4").tobytes()
                + values.tobytes()
            )
            path = folder / f"{prefix}-{kind}-idx{values.ndim}-ubyte"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return arrays


def state(root):
    """Names and contents of everything below root."""
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_npz_keeps_pixels_labels_and_names(tmp_path):
    x = pixels(6)
    y = np.array([0, 1, 2, 0, 1, 2])
    np.savez(
        tmp_path / "a.npz",
        x_train=x,
        y_train=y,
        x_val=x[::-1],
        y_val=y[::-1],
        classes=np.array(["a", "b", "c"]),
    )
    for root in (tmp_path, tmp_path / "a.npz"):
        images = opened(root)
        assert images.classes == ("a", "b", "c")
        assert {split: len(source) for split, source in images.splits.items()} == {
            "train": 6,
            "val": 6,
        }
        image, label, _ = images.splits["val"][1]
        assert np.array_equal(image, x[4])
        assert label == 1


def test_val_is_cut_from_train_by_class_and_seed(tmp_path):
    save_npz(tmp_path, train=80)
    lines = []
    first, same, other = (
        opened(tmp_path, val_share=0.25, split_seed=seed, log=lines.append).splits
        for seed in (1, 1, 2)
    )
    assert 10 <= len(first["val"]) <= 30  # binomial: 20 +- 4
    assert first["val"].names() == same["val"].names() != other["val"].names()
    assert not set(first["val"].names()) & set(first["train"].names())
    assert any(f"{len(first['val'])} training images become val" in line for line in lines)
    assert "val" not in opened(tmp_path, val_share=0).splits
    assert "val" not in opened(tmp_path, val=[]).splits


def test_limit_keeps_training_images_in_proportion(tmp_path):
    save_npz(tmp_path, train=80)
    few, more = (opened(tmp_path, limit=n).splits for n in (8, 16))
    assert np.bincount(few["train"].labels).tolist() == [2, 2, 2, 2]
    assert set(few["train"].names()) < set(more["train"].names())
    assert len(few["test"]) == 20
    assert few["val"].names() == more["val"].names()


def test_train_val_and_test_can_be_other_splits(tmp_path):
    save_npz(tmp_path)
    assert len(opened(tmp_path, train=["train", "test"], val=[], test=[]).splits["train"]) == 60
    with pytest.raises(InputError, match="split test is in data.train"):
        opened(tmp_path, train=["train", "test"], val=["test"], test=[])
    assert "test" not in opened(tmp_path, test=[]).splits
    with pytest.raises(InputError, match="no split 'tests'; did you mean 'test'"):
        opened(tmp_path, test=["tests"])
    with pytest.raises(InputError, match="no split to train on"):
        opened(tmp_path, train=[])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.arange(39) % 4}, "y_train: 39 labels for 40 images"),
        ({"y_test": np.full(20, 7)}, r"y_test: 20 labels are out of range \(0 to 3\): 7 in row 0"),
        (
            {"x_train": np.zeros((40, 8, 6, 3))},
            "x_train: images are uint8 or uint16, got float64",
        ),
        ({"x_train": None}, "no array x_train"),
        ({"y_test": None}, "no array y_test"),
        (
            {"y_train": np.zeros(40, int), "classes": np.array(["a", "b", "c", "d"])},
            "all of one class .a.",
        ),
        ({"y_train": np.arange(40) % 4 * 2}, "no image has the label 1"),
        ({"classes": np.array(["a", "a", "b", "c"])}, "two classes are called 'a'"),
        ({"y_train": np.array([{}] * 40)}, "Python objects"),
    ],
)
def test_faults_of_an_npz_are_reported(tmp_path, change, message):
    save_npz(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        opened(tmp_path, "npz")


def test_a_file_that_is_no_npz_and_two_of_them_are_reported(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="npz.*truncated"):
        opened(tmp_path, "npz")
    (tmp_path / "b.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="found 2: a.npz, b.npz; give one"):
        opened(tmp_path, "npz")
    with pytest.raises(InputError, match="found 0"):
        opened(tmp_path / "c.npz", "npz")


def test_jpeg_cifar_is_decoded_image_per_image(tmp_path):
    encoded, arrays = [], {}
    for value in range(20):
        stream = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), 10 * value, np.uint8)).save(stream, format="JPEG")
        encoded.append(stream.getvalue())
    shared = min(
        next(i for i, (a, b) in enumerate(zip(encoded[0], other, strict=False)) if a != b)
        for other in encoded[1:]
    )
    for name in ("train", "test"):
        tails = [each[shared:] for each in encoded]
        arrays[f"data_{name}"] = np.frombuffer(b"".join(tails), np.uint8)
        arrays[f"off_{name}"] = np.cumsum([0, *map(len, tails)]).astype(np.uint32)
        arrays[f"y_{name}"] = np.arange(20, dtype=np.uint8) % 10
    arrays["header"] = np.frombuffer(encoded[0][:shared], np.uint8)
    np.savez(tmp_path / "c.npz", **arrays)
    images = opened(tmp_path)
    assert images.classes[9] == "truck"
    image, label, _ = images.splits["test"][13]
    assert label == 3
    assert np.abs(image.astype(int) - 130).max() <= 2
    arrays["off_test"] = arrays["off_test"][::-1]
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(InputError, match="offsets must rise"):
        opened(tmp_path)


def test_folders_are_classes_in_natural_order(tmp_path):
    save_folder(tmp_path, classes=("class_2", "class_10", "class_1"))
    images = opened(tmp_path)
    assert images.classes == ("class_1", "class_2", "class_10")
    image, label, name = images.splits["train"][12]
    assert (label, name) == (2, f"{tmp_path}/train/class_10/2.png")
    assert np.array_equal(image, np.asarray(Image.open(name)))


def test_class_folders_alone_are_split(tmp_path):
    save_folder(tmp_path, splits=[""], count=20)
    lines = []
    images = opened(tmp_path, log=lines.append)
    test = len(images.splits["test"])
    assert 3 <= test <= 14  # binomial: 8 +- 2.5
    assert len(set().union(*(source.names() for source in images.splits.values()))) == 40
    assert any(f"{test} of 40 images" in line for line in lines)
    before = {split: set(source.names()) for split, source in images.splits.items()}
    for name in ("cat", "dog"):
        first = next(iter(sorted((tmp_path / name).iterdir())))
        Image.open(first).rotate(180).save(first.with_name("one_more.png"))
    after = opened(tmp_path, log=lines.append).splits
    assert all(before[split] <= set(after[split].names()) for split in before)


def test_val_of_class_folders_alone_is_its_share_of_what_test_left(tmp_path):
    save_folder(tmp_path, splits=[""], count=150)
    splits = opened(tmp_path, val_share=0.1).splits
    assert 40 < len(splits["test"]) < 80  # 60 +- 7
    assert 10 < len(splits["val"]) < 40  # 24 +- 5


def test_faults_of_folders_are_reported(tmp_path):
    save_folder(tmp_path)
    (tmp_path / "val" / "cats").mkdir()
    with pytest.raises(InputError, match="cats: .*did you mean 'cat'"):
        opened(tmp_path)
    (tmp_path / "val" / "cats").rmdir()
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(InputError, match="cow: a class without images"):
        opened(tmp_path)
    save_folder(tmp_path / "other", splits=("train",), classes=("images", "masks"))
    with pytest.raises(InputError, match="images/ and masks/"):
        opened(tmp_path / "other")
    with pytest.raises(InputError, match="no such folder"):
        opened(tmp_path / "none", "folder")


def test_all_unreadable_files_are_counted_and_the_first_20_named(tmp_path):
    save_folder(tmp_path, count=30)
    bad = sorted((tmp_path / "train" / "cat").iterdir())[:23]
    for path in bad:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="23 images cannot be read") as error:
        opened(tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert all("damaged or truncated" in line for line in lines[:20])
    assert opened(tmp_path, check=False)


def test_images_outside_class_folders_are_reported(tmp_path):
    save_folder(tmp_path, splits=("train",))
    (tmp_path / "test").mkdir()
    Image.fromarray(pixels(1)[0]).save(tmp_path / "test" / "a.png")
    lines = []
    assert "test" not in opened(tmp_path, log=lines.append).splits
    assert any(f"{tmp_path / 'test'}: left out" in line for line in lines)


def save_tiny_imagenet(root):
    ids = ["n02", "n01", "n03"]
    for wnid in ids:
        (root / "train" / wnid / "images").mkdir(parents=True)
        for i in range(4):
            Image.fromarray(pixels(1)[0]).save(
                root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            )
    (root / "val" / "images").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(pixels(1)[0]).save(root / "val" / "images" / f"val_{i}.JPEG")
    (root / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9\n" for i, wnid in enumerate(ids))
    )
    (root / "wnids.txt").write_text("\n".join(ids) + "\n")
    (root / "words.txt").write_text(
        "n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\nn04\tother\n"
    )
    return root


def test_tiny_imagenet(tmp_path):
    images = opened(save_tiny_imagenet(tmp_path))
    assert images.classes == ("goldfish", "crane (n02)", "crane (n03)")
    assert images.splits["train"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.splits["val"].labels.tolist() == [1, 0, 2]
    assert images.splits["val"].names()[0].endswith("val_0.JPEG")
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\t0\n")
    with pytest.raises(InputError, match="line 1: expected a file name and an id"):
        opened(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("../wnids.txt\tn01\t0\n")
    with pytest.raises(InputError, match="line 1"):
        opened(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("gone.JPEG\tn01\t0\n")
    with pytest.raises(InputError, match="gone.JPEG: no such file"):
        opened(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("place", ["", "raw", "{}/raw"])
def test_idx_files_are_read_where_they_lie(tmp_path, name, packed, place):
    arrays = save_idx(tmp_path / place.format(IDX_SETS[name][0]), name, packed=packed)
    before = state(tmp_path)
    images = opened(tmp_path)
    assert images.classes == IDX_SETS[name][1]
    assert len(images.splits["train"]) == 27
    image, label, _ = images.splits["test"][7]
    assert np.array_equal(image[..., 0], arrays["t10k"][0][7])
    assert label == arrays["t10k"][1][7]
    assert state(tmp_path) == before


def test_idx_files_of_another_set_must_be_named(tmp_path):
    save_idx(tmp_path, "mnist")
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:8] + bytes(reversed(path.read_bytes()[8:])))
    with pytest.raises(InputError, match="set data.format to one of"):
        opened(tmp_path)
    assert opened(tmp_path, "fashion_mnist").classes[0] == "T-shirt/top"


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08\x03" + b"\0" * 20, b"\0\0\x08\x01\0\0\0\x05ab"]
)
def test_damaged_idx_files_are_reported(tmp_path, content):
    save_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte: not an idx file"):
        opened(tmp_path, "mnist")
    save_idx(tmp_path / "packed", packed=True)
    path = tmp_path / "packed" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="train-images-idx3-ubyte.gz: the file is damaged"):
        opened(tmp_path / "packed", "mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_missing_set_is_reported_with_a_hint_and_not_downloaded(tmp_path, name, monkeypatch):
    from torchvision.datasets import utils

    monkeypatch.setattr(
        utils, "download_url", lambda *args, **kwargs: pytest.fail("downloads unasked")
    )
    with pytest.raises(InputError, match=r"--data\.download true"):
        opened(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_download_that_fails_is_reported(tmp_path, monkeypatch):
    from torchvision import datasets

    def fail(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    with pytest.raises(InputError, match="MNIST could not be downloaded .no network."):
        opened(tmp_path, "mnist", download=True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_if_its_sums_are_right(tmp_path, name, monkeypatch):
    from torchvision import datasets

    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    count = 10 if name == "cifar10" else 100
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    lists = {"train_list": [], "test_list": []}
    data = {}
    for key, files in lists.items():
        for file, _ in getattr(kind, key):
            data[file] = RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
            (folder / file).write_bytes(
                pickle.dumps(
                    {
                        "data": data[file],
                        "labels" if name == "cifar10" else "fine_labels": list(range(count)),
                    }
                )
            )
            files.append([file, hashlib.md5((folder / file).read_bytes()).hexdigest()])
    (folder / kind.meta["filename"]).write_bytes(
        pickle.dumps({kind.meta["key"]: [f"c{i}" for i in range(count)]})
    )
    with pytest.raises(InputError, match="incomplete or damaged"):
        opened(tmp_path, name)
    for key, files in lists.items():
        monkeypatch.setattr(kind, key, files)
    monkeypatch.setattr(
        kind,
        "meta",
        kind.meta | {"md5": hashlib.md5((folder / kind.meta["filename"]).read_bytes()).hexdigest()},
    )
    for root in (tmp_path, folder):
        images = opened(root)
        assert images.classes[7] == "c7"
        image, label, _ = images.splits["test"][4]
        assert label == 4
        assert np.array_equal(
            image, data[lists["test_list"][0][0]][4].reshape(3, 32, 32).transpose(1, 2, 0)
        )


def test_digits_come_with_scikit_learn_and_split_alike_whatever_the_seed(tmp_path):
    from sklearn.datasets import load_digits

    one, two = (opened(tmp_path, "digits", split_seed=seed).splits for seed in (0, 1))
    assert one["test"].names() == two["test"].names()
    assert one["val"].names() != two["val"].names()
    assert sum(map(len, one.values())) == 1797
    image, label, name = one["test"][5]
    row = int(name.removeprefix("digits[").removesuffix("]"))
    np.testing.assert_allclose(image[..., 0] / 255, load_digits().images[row] / 16, atol=0.5 / 255)
    assert label == load_digits().target[row]


def test_auto_refuses_doubt(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        opened(tmp_path / "none")
    with pytest.raises(InputError, match="set data.format to one of"):
        opened(tmp_path)
    save_idx(tmp_path / "MNIST" / "raw")
    save_npz(tmp_path)
    with pytest.raises(InputError, match="mnist and npz"):
        opened(tmp_path)
    with pytest.raises(InputError, match="'mnst' is not one of auto, .*did you mean 'mnist'"):
        opened(tmp_path, "mnst")
    assert {
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "folder",
        "tiny_imagenet",
        "npz",
        "cifar10_jpeg",
        "digits",
    } == set(FORMATS)


def dataset(root, **options):
    images = opened(save_npz(root))
    return ClassificationDataset(
        images.splits["train"],
        images.classes,
        Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3),
        **options,
    )


def test_items_are_normalized_images_with_label_and_index(tmp_path):
    data = dataset(tmp_path)
    item = data[(3, 5)]
    image, label, _ = data.source[5]
    np.testing.assert_allclose(
        item["image"].numpy(), (image.transpose(2, 0, 1) / 255 - 0.5) / 0.25, atol=1e-6
    )
    assert (item["label"], item["index"], len(data), data.one_size) == (
        label,
        5,
        len(data.source),
        True,
    )
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert (batch["image"].dtype, batch["label"].dtype, batch["image"].shape) == (
        torch.float32,
        torch.int64,
        (4, 3, 8, 6),
    )


def test_randomness_depends_on_seed_epoch_and_index_only_and_not_on_workers(tmp_path):
    augmentation = ImageAugmentation(
        [{"RandomCrop": {"size": [8, 6], "padding": 2}}, "TrivialAugmentWide"]
    )
    data = dataset(tmp_path, augmentation=augmentation, seed=3)
    keys = [(epoch, index) for epoch in range(3) for index in range(8)]
    forward = {key: data[key]["image"] for key in keys}
    assert all(torch.equal(forward[key], data[key]["image"]) for key in reversed(keys))
    assert len({image.numpy().tobytes() for image in forward.values()}) > 20  # some come out black
    (loaded,) = torch.utils.data.DataLoader(data, batch_sampler=[keys], num_workers=1)
    assert torch.equal(loaded["image"], torch.stack(list(forward.values())))


def test_an_index_alone_is_augmented_anew_as_torch_is_seeded(tmp_path):
    data = dataset(tmp_path, augmentation=ImageAugmentation(["TrivialAugmentWide"]))
    epochs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        loader = torch.utils.data.DataLoader(data, batch_size=8)
        epochs.append([torch.cat([batch["image"] for batch in loader]) for _ in range(2)])
    assert not torch.equal(*epochs[0])
    assert all(torch.equal(*pair) for pair in zip(epochs[0], epochs[1], strict=True))
    assert not torch.equal(epochs[0][0], epochs[2][0])


def test_statistics_of_a_source_are_those_of_its_images(tmp_path):
    source = opened(save_npz(tmp_path)).splits["train"]
    mean, std = channel_statistics(source, Preprocess(gamma=0.5))
    values = np.sqrt(np.stack([source[i][0] for i in range(len(source))]) / 255).reshape(-1, 3)
    np.testing.assert_allclose(mean, values.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(std, values.std(axis=0), atol=1e-5)


def test_folders_named_like_splits_are_no_classes(tmp_path):
    for split in ("Train", "Test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / split / label / "x.png")
    with pytest.raises(InputError, match="Test, Train look like splits"):
        open_images(tmp_path, log=lambda _: None)


def test_folds_hold_each_image_out_once_and_have_every_class(tmp_path):
    root = save_folder(tmp_path / "set", splits=("train", "val", "test"), count=6)
    pool, found = {}, []
    for fold in range(3):
        images = opened(root, folds=3, fold=fold, split_seed=2)
        train, val = (images.splits[name] for name in ("train", "val"))
        pool = {*train.names(), *val.names()}
        assert not set(train.names()) & set(val.names())
        assert set(val.labels.tolist()) == set(train.labels.tolist()) == {0, 1}
        assert len(images.splits["test"]) == 12
        found += val.names()
    assert sorted(found) == sorted(pool)
    assert len(found) == 24


def test_folds_of_arrays_take_train_alone_if_there_is_no_val(tmp_path):
    root = save_npz(tmp_path / "set")
    sizes = [len(opened(root, folds=4, fold=fold).splits["val"]) for fold in range(4)]
    assert sum(sizes) == 40
    assert min(sizes) >= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "data.folds must be 0 .* or at least 2, got 1"),
        ({"folds": 3, "fold": 3}, "data.fold must be from 0 to 2, got 3"),
        ({"folds": 2, "val": []}, "each needs a name"),
        ({"folds": 11}, "11 folds need as many images of every class, and cat has 10"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(options, message, tmp_path):
    root = save_folder(tmp_path / "set", splits=("train", "val"))
    with pytest.raises(InputError, match=message):
        opened(root, test=[], **options)


def test_a_split_without_a_class_of_train_is_said(tmp_path):
    save_folder(tmp_path, splits=("train", "test"), classes=("ant", "bee", "cat"))
    save_folder(tmp_path, splits=("val",), classes=("bee",))
    lines = []
    opened(tmp_path, log=lines.append)
    (warning,) = [line for line in lines if "warning" in line]
    assert "val has no images of ant, cat" in warning
