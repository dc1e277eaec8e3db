import multiprocessing
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from kanseg.data import Augmentation, LabelSpec, Preprocess, Sample, SegmentationDataset
from kanseg.data.loader import (
    collate,
    leave_signals_to_main_process,
    make_loader,
    to_device,
    unwrap_worker_errors,
)
from kanseg.data.preprocess import lookup, lookup_by_opencv
from kanseg.utils.errors import InputError

RNG = np.random.default_rng(0)
PLAIN = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), resize=(9, 7))


def dataset(folder, *, deep=False, layers=False, preprocess=PLAIN):
    samples = []
    for number in range(3):
        image, mask = folder / f"{number}.png", folder / f"{number}m.png"
        if deep:
            Image.fromarray(RNG.integers(0, 65536, (12, 10), dtype=np.uint16)).save(image)
        else:
            Image.fromarray(RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(image)
        Image.fromarray(RNG.integers(0, 2, (12, 10), dtype=np.uint8)).save(mask)
        samples.append(Sample(str(number), image, (mask, None) if layers else mask))
    label_spec = LabelSpec("multilabel" if layers else "binary", ("a", "b"))
    return SegmentationDataset(
        samples, label_spec, preprocess, augmentation=Augmentation(["HorizontalFlip"]), seed=2
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "kind", [{}, {"deep": True}, {"layers": True}], ids=["bytes", "16 bits", "multilabel"]
)
def test_batches_on_the_device_are_those_of_the_items(tmp_path, kind, workers):
    data = dataset(tmp_path, **kind)
    keys = [[(1, 0), (1, 2)], [(1, 1)]]
    loader = make_loader(data, batch_sampler=keys, workers=workers)
    batches = [to_device(batch, "cpu", data.preprocess) for batch in loader]
    for batch, chosen in zip(batches, keys, strict=True):
        expected = default_collate([data[key] for key in chosen])
        assert batch.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(batch[key], value)
            assert batch[key].dtype == value.dtype


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_8_bit_and_16_bit_images_is_that_of_the_items(tmp_path, workers):
    folders = [tmp_path / "bytes", tmp_path / "deep"]
    for folder in folders:
        folder.mkdir()
    samples = [*dataset(folders[0]).samples, *dataset(folders[1], deep=True).samples]
    label_spec = LabelSpec("binary", ("a", "b"))
    always = Augmentation([{"HorizontalFlip": {"p": 1.0}}])
    for augmentation in (None, always):
        data = SegmentationDataset(samples, label_spec, PLAIN, augmentation=augmentation)
        for indices in (None, range(6)):
            loader = make_loader(data, batch_size=4, workers=workers, indices=indices)
            batches = [to_device(batch, "cpu", PLAIN)["image"] for batch in loader]
            expected = torch.stack([data[index]["image"] for index in range(6)])
            torch.testing.assert_close(torch.cat(batches), expected, rtol=0, atol=1e-6)


def test_items_are_normalized_by_the_formula(tmp_path):
    data = dataset(tmp_path)
    values = data.without_normalization()[0, 1]["image"].numpy().astype(np.float32) / 255
    expected = (values - np.float32(PLAIN.mean)) / np.float32(PLAIN.std)
    assert np.array_equal(data[0, 1]["image"].numpy(), expected.transpose(2, 0, 1))


def test_a_plain_loader_gives_normalized_floats(tmp_path):
    data = dataset(tmp_path)
    list(make_loader(data, batch_size=3))  # leaves the data set as it is
    keys = [[(4, 0), (4, 1)]]
    (batch,) = DataLoader(data, batch_sampler=keys)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].dtype == torch.int64
    assert torch.equal(batch["image"][1], data[4, 1]["image"])


def test_workers_return_bytes(tmp_path):
    batch = next(iter(make_loader(dataset(tmp_path), batch_size=3)))
    assert batch["image"].dtype == batch["mask"].dtype == torch.uint8
    assert batch["image"].shape == (3, 9, 7, 3)
    assert batch["index"] == [0, 1, 2]


def test_labels_become_a_tensor():
    items = [{"image": torch.zeros(2, 2, 3, dtype=torch.uint8), "label": n} for n in (4, 1)]
    assert torch.equal(to_device(collate(items), "cpu", PLAIN)["label"], torch.tensor([4, 1]))


def test_other_devices_get_the_same_values():
    images = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8)
    table = RNG.normal(size=(3, 256)).astype(np.float32)
    assert torch.equal(lookup(images, torch.from_numpy(table)), lookup_by_opencv(images, table))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_its_message(tmp_path, workers):
    data = dataset(tmp_path)
    data.samples[1].image.write_bytes(b"no image")
    loader = make_loader(data, batch_size=3, workers=workers)
    with pytest.raises(InputError) as raised, unwrap_worker_errors():
        list(loader)
    assert "1.png" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def read_for_ever(ready):
    leave_signals_to_main_process(0)
    ready.set()
    time.sleep(120)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="not on this system")
def test_a_worker_outlives_the_sigterm_of_others_and_ends_with_the_main_process():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    reader = context.Process(target=read_for_ever, args=(ready,), daemon=True)
    reader.start()
    assert ready.wait(20)
    subprocess.run(["kill", "-TERM", str(reader.pid)], check=True)
    reader.join(0.5)
    assert reader.is_alive()
    reader.terminate()
    reader.join(20)
    assert reader.exitcode == 0
