"""Images a second of our data set beside bare decoding and resizing of the same files by the same
workers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from kanseg.benchmark.measure import ratio
from kanseg.benchmark.report import answer
from kanseg.config import DataConfig
from kanseg.data import Augmentation, Preprocess, Sample, SegmentationDataset, open_data, write_png
from kanseg.data.collate import RawItems, collate
from kanseg.utils.errors import InputError
from kanseg.utils.tables import markdown_table

REACH = 0.8
AUGMENT = [
    "HorizontalFlip",
    "VerticalFlip",
    "RandomRotate90",
    {"RandomBrightnessContrast": {"p": 0.5}},
]
EXPLAINED = (
    "Images a second, median over the rounds. bare: image and mask decoded and resized, nothing"
    " else, in batches of bytes; kanseg: as in training,\nwhich ends with normalized float32"
    " images and checked int64 classes on the CPU. The ratio is to the faster of the bare ones."
    " Without workers by\nCPU time, with them by the clock."
)


@dataclass(frozen=True)
class LoaderCase:
    """What is loaded and how.

    Args:
        size: height and width that images are resized to.
        batch: images at once.
        workers: processes that read; 0 for the main one, whose CPU time is then measured.
        rounds: how often every loader reads all images.
        limit: images of the data set that are read.

    Raises:
        InputError: a number below its least.
    """

    size: int = 256
    batch: int = 8
    workers: int = 2
    rounds: int = 5
    limit: int = 200

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("batch", 1), ("workers", 0), ("rounds", 1), ("limit", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")


class Bare(Dataset):
    """Decode and resize an image and its mask, and nothing else: no header is looked at, no value
    checked, nothing turned or normalized.

    It is made as fast as it can be: the bytes stay where the decoder puts them, (H, W, C), in its
    order of colors.

    Args:
        samples: with one mask file each.
        size: height and width of the items.
        opencv: decode by OpenCV instead of PIL, masks too unless it sees colors in them (it does
            in those with a palette).
    """

    def __init__(self, samples: Sequence[Sample], size: int, *, opencv: bool):
        self.samples, self.size, self.opencv = samples, size, opencv
        self.opencv_masks = opencv and all(
            cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED).ndim == 2 for sample in samples
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sample = self.samples[index]
        image = (
            cv2.imread(str(sample.image))
            if self.opencv
            else np.asarray(Image.open(sample.image).convert("RGB"))
        )
        mask = (
            cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED)
            if self.opencv_masks
            else np.asarray(Image.open(sample.mask))
        )
        size = (self.size, self.size)
        image, mask = (
            cv2.resize(image, size),
            cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST),
        )
        return torch.from_numpy(image), torch.from_numpy(mask)


def loader_rows(root: str | None, case: LoaderCase) -> list[dict[str, object]]:
    """A row for each loader: `loader`, `images_per_second`, `ratio`, `spread`, `limit` and `met`;
    without a root images are made for it.

    Raises:
        InputError: no data set, or none with a mask file for each image.
    """
    with nullcontext(root) if root is not None else TemporaryDirectory() as folder:
        if root is None:
            make_images(Path(folder))
        opened = open_data(DataConfig(root=str(folder)), log=lambda _: None)
        found = dict.fromkeys(
            sample
            for samples in opened.splits.values()
            for sample in samples
            if isinstance(sample.mask, Path)
        )
        samples = list(found)[: case.limit]
        if not samples:
            raise InputError(f"{folder}: no image with a mask file to read")
        preprocess = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3, resize=(case.size, case.size))
        loaders = {
            "bare, PIL": Bare(samples, case.size, opencv=False),
            "bare, OpenCV": Bare(samples, case.size, opencv=True),
            "kanseg": RawItems(SegmentationDataset(samples, opened.info, preprocess)),
            "kanseg, augmented": RawItems(
                SegmentationDataset(
                    samples, opened.info, preprocess, augmentation=Augmentation(AUGMENT)
                )
            ),
        }
        times = _times(loaders, case)
    return _rows(times, len(samples))


def _rows(times: dict[str, list[float]], count: int) -> list[dict[str, object]]:
    limit = min(
        (name for name in times if name.startswith("bare")),
        key=lambda name: statistics.median(times[name]),
    )
    rows: list[dict[str, object]] = []
    for name, seconds in times.items():
        share = ratio(times[limit], seconds)
        stated = REACH if name == "kanseg" else None
        met = None if stated is None else round(share.median, 2) >= stated
        rate = count / statistics.median(seconds)
        rows.append(
            {
                "loader": name,
                "images_per_second": rate,
                "ratio": share.median,
                "spread": share.spread,
                "reach": stated,
                "met": met,
            }
        )
    return rows


def _times(datasets: dict[str, Dataset], case: LoaderCase) -> dict[str, list[float]]:
    """Seconds of each data set in each round; they take turns, so that a busy machine hits all
    alike.
    """
    workers = {"num_workers": case.workers, "persistent_workers": case.workers > 0}
    loaders = {}
    for name, dataset in datasets.items():
        options = {"collate_fn": collate} if isinstance(dataset, RawItems) else {}
        loaders[name] = DataLoader(dataset, batch_size=case.batch, **workers, **options)
    clock = time.perf_counter if case.workers else time.process_time
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(case.rounds + 1):  # the first one starts the workers and warms the file cache
        for name, loader in loaders.items():
            start = clock()
            _read_all(loader)
            if turn:
                times[name].append(clock() - start)
    return times


def _read_all(loader: DataLoader) -> None:
    """Every batch as the network gets it."""
    finish = loader.dataset.finish if isinstance(loader.dataset, RawItems) else lambda batch: None
    for batch in loader:
        finish(batch)


def loader_table(rows: Sequence[dict[str, object]]) -> str:
    """The rows of `loader_rows` as a Markdown table."""
    cells = [
        (
            row["loader"],
            f"{row['images_per_second']:.0f}",
            f"{row['ratio']:.2f} ± {row['spread']:.2f}",
            f"{row['reach'] or '-'}",
            answer(row["met"]),
        )
        for row in rows
    ]
    return markdown_table(
        ("loader", "images/s", "to the faster bare one", "reach", "reached"), cells
    )


def make_images(root: Path, count: int = 64, size: tuple[int, int] = (480, 640)) -> None:
    """A data set of smooth colors as JPEG files and discs as masks, in the folder form."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    (root / "images").mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) // 2 + rng.integers(
            0, 32, (*size, 3), dtype=np.uint8
        )
        row, column, radius = (
            rng.integers(0, size[0]),
            rng.integers(0, size[1]),
            rng.integers(30, 120),
        )
        mask = ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number:03d}.jpg", quality=90)
        write_png(root / "masks" / f"{number:03d}.png", mask)
