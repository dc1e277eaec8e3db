import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from kanseg.data import (
    Augmentation,
    Preprocess,
    SegmentationDataset,
    channel_statistics,
    read_folder,
)


def dataset(folder, **options):
    found = read_folder(folder)
    samples = [s for name in ("train", "val", "test") for s in found.samples(name)]
    mean, std = channel_statistics(samples, Preprocess())
    return SegmentationDataset(
        samples,
        found.label_spec,
        Preprocess(mean=mean, std=std, resize=options.pop("resize", None)),
        **options,
    )


def test_items_have_the_stated_types(folder):
    item = dataset(folder)[0]
    assert (item["image"].shape, item["image"].dtype) == ((3, 32, 40), torch.float32)
    assert (item["mask"].shape, item["mask"].dtype) == ((32, 40), torch.int64)
    assert set(item["mask"].unique().tolist()) == {0, 1}


def test_batch_statistics_are_those_of_a_normalized_image(folder):
    images = torch.stack([item["image"] for item in dataset(folder)])
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(images.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)


def test_resize_acts_on_both(folder):
    item = dataset(folder, resize=(16, 20))[0]
    assert item["image"].shape[1:] == item["mask"].shape == (16, 20)


def test_randomness_depends_on_seed_epoch_and_index_only(folder):
    flips = [{"HorizontalFlip": {"p": 0.5}}]
    one, two = (dataset(folder, augmentation=Augmentation(flips), seed=3) for _ in range(2))
    keys = [(epoch, index) for epoch in range(6) for index in range(6)]
    forward = {key: one[key]["image"] for key in keys}
    backward = {key: two[key]["image"] for key in reversed(keys)}
    assert all(torch.equal(forward[key], backward[key]) for key in keys)
    assert len({forward[(epoch, 0)].numpy().tobytes() for epoch in range(6)}) == 2


def test_workers_do_not_change_the_samples(folder):
    data = dataset(folder, augmentation=Augmentation(["HorizontalFlip"]), seed=1)
    plans = [[(4, 0), (4, 1)], [(4, 2), (4, 3)]]
    single, several = (
        list(torch.utils.data.DataLoader(data, batch_sampler=plans, num_workers=n)) for n in (0, 2)
    )
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(single, several, strict=True))


def test_one_size_is_read_off_the_headers(folder):
    assert dataset(folder).one_size
    assert dataset(folder, resize=(8, 8)).one_size
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "images" / "p00.png")
    assert not dataset(folder).one_size


def two_epochs(data, workers, *, persistent=False):
    """The images of two epochs of a plain loader, in order."""
    options = {"num_workers": workers, "persistent_workers": persistent}
    loader = DataLoader(data, batch_size=3, **options)
    return [torch.cat([batch["image"] for batch in loader]) for _ in range(2)]


@pytest.mark.parametrize(
    ("workers", "persistent"),
    [(0, False), (2, False), (2, True)],
    ids=["none", "two", "persistent"],
)
def test_a_plain_loader_augments_every_epoch_anew_and_as_torch_is_seeded(
    folder, workers, persistent
):
    flips = Augmentation([{"HorizontalFlip": {"p": 0.5}}, {"VerticalFlip": {"p": 0.5}}])
    data = dataset(folder, augmentation=flips)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(two_epochs(data, workers, persistent=persistent))
    first, again, other = runs
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_plain_loader_without_augmentation_draws_nothing(folder):
    data = dataset(folder)
    before = torch.get_rng_state()
    assert torch.equal(data[1]["image"], data[3, 1]["image"])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_and_an_index_draw_nothing(folder):
    data = dataset(folder, augmentation=Augmentation("auto"))
    before = torch.get_rng_state()
    images = {data[epoch, 0]["image"].numpy().tobytes() for epoch in range(8)}
    assert len(images) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_indices_are_those_of_a_sequence(folder):
    flips = Augmentation([{"HorizontalFlip": {"p": 0.5}}])
    samples = dataset(folder, augmentation=flips)
    count = len(samples)
    for epoch in range(4):
        last, same = samples[epoch, -1], samples[epoch, count - 1]
        assert torch.equal(last["image"], same["image"])
        assert last["index"] == count - 1
    assert samples[-count]["index"] == 0
    for key in (count, -count - 1, (0, count)):
        with pytest.raises(IndexError, match=f"{count} samples"):
            samples[key]
    assert [item["index"] for item in samples] == list(range(count))
