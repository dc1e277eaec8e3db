import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, default_collate

from kanseg.data import Augmentation, LabelSpec, Preprocess, Sample, SegmentationDataset
from kanseg.data.collate import RawItems, collate, finish
from kanseg.data.preprocess import _by_index

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
    info = LabelSpec("multilabel" if layers else "binary", ("a", "b"))
    return SegmentationDataset(
        samples, info, preprocess, augmentation=Augmentation(["HorizontalFlip"]), seed=2
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "kind", [{}, {"deep": True}, {"layers": True}], ids=["bytes", "16 bits", "multilabel"]
)
def test_finished_batches_are_those_of_the_items(tmp_path, kind, workers):
    data = dataset(tmp_path, **kind)
    raw = RawItems(data)
    keys = [[(1, 0), (1, 2)], [(1, 1)]]
    batches = [
        raw.finish(batch)
        for batch in DataLoader(raw, batch_sampler=keys, num_workers=workers, collate_fn=collate)
    ]
    for batch, chosen in zip(batches, keys, strict=True):
        expected = default_collate([data[key] for key in chosen])
        assert batch.keys() == expected.keys()
        assert all(
            torch.equal(batch[key], expected[key]) and batch[key].dtype == expected[key].dtype
            for key in expected
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_8_bit_and_16_bit_images_is_that_of_the_items(tmp_path, workers):
    folders = [tmp_path / "bytes", tmp_path / "deep"]
    for folder in folders:
        folder.mkdir()
    samples = [*dataset(folders[0]).samples, *dataset(folders[1], deep=True).samples]
    info = LabelSpec("binary", ("a", "b"))
    for augmentation in (None, Augmentation(["HorizontalFlip"])):
        data = SegmentationDataset(samples, info, PLAIN, augmentation=augmentation)
        raw = RawItems(data)
        options = {"batch_size": 4, "num_workers": workers, "collate_fn": collate}
        for loader in (DataLoader(raw, **options), DataLoader(Subset(raw, range(6)), **options)):
            batches = [raw.finish(batch)["image"] for batch in loader]
            expected = torch.stack([data[index]["image"] for index in range(6)])
            torch.testing.assert_close(torch.cat(batches), expected, rtol=0, atol=1e-6)


def test_items_are_normalized_by_the_formula(tmp_path):
    data = dataset(tmp_path)
    values = data.raw(1)["image"].numpy().astype(np.float32) / 255
    expected = (values - np.float32(PLAIN.mean)) / np.float32(PLAIN.std)
    assert np.array_equal(data[1]["image"].numpy(), expected.transpose(2, 0, 1))


def test_images_and_masks_cross_as_bytes(tmp_path):
    batch = collate([dataset(tmp_path).raw(index) for index in range(3)])
    assert (batch["image"].dtype, batch["mask"].dtype, batch["index"]) == (
        torch.uint8,
        torch.uint8,
        [0, 1, 2],
    )


def test_labels_become_a_tensor():
    raw = collate(
        [{"image": torch.zeros(2, 2, 3, dtype=torch.uint8), "label": n, "index": n} for n in (4, 1)]
    )
    assert torch.equal(finish(raw, PLAIN)["label"], torch.tensor([4, 1]))


def test_other_devices_get_the_same_values():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    assert torch.equal(
        _by_index(images, torch.from_numpy(PLAIN._table)), PLAIN.normalize_bytes(images)
    )
