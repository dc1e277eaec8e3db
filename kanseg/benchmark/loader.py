"""Images per second of the data loader, relative to bare decoding and resizing of the files."""

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
from kanseg.benchmark.report import yes_or_no
from kanseg.config import DataConfig
from kanseg.data import Augmentation, Preprocess, Sample, SegmentationDataset, open_data, write_png
from kanseg.data.loader import make_loader, to_device
from kanseg.utils.errors import InputError
from kanseg.utils.tables import markdown_table

TARGET = 0.8
AUGMENT = [
    "HorizontalFlip",
    "VerticalFlip",
    "RandomRotate90",
    {"RandomBrightnessContrast": {"p": 0.5}},
]
EXPLAINED = (
    "Images per second, median over the rounds. bare: image and mask are decoded and resized, in"
    " uint8 batches; kanseg: as in training,\nwith normalized float32 images and checked int64"
    " targets on the CPU. The ratio is to the faster bare loader. Without workers\nCPU time is"
    " measured, with workers wall-clock time."
)


@dataclass(frozen=True)
class LoaderCase:
    """Options of the images and the loaders.

    Args:
        size: images are resized to this height and width.
        batch: batch size.
        workers: number of worker processes; 0 reads in the main process and measures its CPU time.
        rounds: how often every loader reads all images.
        limit: largest number of images.

    Raises:
        InputError: a number below its minimum.
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
    """Decode and resize images and masks as fast as possible: no checks, EXIF rotation or
    normalization, (H, W, C), channels in the decoder's order.

    Args:
        samples: with one mask file each.
        size: height and width of the samples.
        opencv: decode with OpenCV instead of PIL. Masks that OpenCV decodes to colors, such as
            palette images, are decoded with PIL.
    """

    def __init__(self, samples: Sequence[Sample], size: int, *, opencv: bool):
        self.samples, self.size, self.opencv = samples, size, opencv
        self.opencv_masks = opencv
        for sample in samples:
            if opencv and cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED).ndim != 2:
                self.opencv_masks = False

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sample = self.samples[index]
        if self.opencv:
            image = cv2.imread(str(sample.image))
        else:
            image = np.asarray(Image.open(sample.image).convert("RGB"))
        if self.opencv_masks:
            mask = cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED)
        else:
            mask = np.asarray(Image.open(sample.mask))
        size = (self.size, self.size)
        image = cv2.resize(image, size)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        return torch.from_numpy(image), torch.from_numpy(mask)


def loader_rows(root: str | None, case: LoaderCase) -> list[dict[str, object]]:
    """Measure each loader: rows of `loader`, `images_per_second`, `ratio`, `spread`, `reach` and
    `met`.

    Args:
        root: folder of the data set; None to generate images.
        case: options of the images and the loaders.

    Raises:
        InputError: no data set, or none with mask files.
    """
    with nullcontext(root) if root is not None else TemporaryDirectory() as folder:
        if root is None:
            make_images(Path(folder))
        opened = open_data(DataConfig(root=str(folder)), log=lambda _: None)
        samples = []
        for split in opened.splits.values():
            samples += [sample for sample in split if isinstance(sample.mask, Path)]
        samples = list(dict.fromkeys(samples))[: case.limit]
        if not samples:
            raise InputError(f"{folder}: no image with a mask file to read")
        preprocess = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3, resize=(case.size, case.size))
        plain = SegmentationDataset(samples, opened.label_spec, preprocess)
        augmented = SegmentationDataset(
            samples, opened.label_spec, preprocess, augmentation=Augmentation(AUGMENT)
        )
        loaders = {
            "bare, PIL": Bare(samples, case.size, opencv=False),
            "bare, OpenCV": Bare(samples, case.size, opencv=True),
            "kanseg": plain,
            "kanseg, augmented": augmented,
        }
        times = _times(loaders, case)
    return _rows(times, len(samples))


def _rows(times: dict[str, list[float]], count: int) -> list[dict[str, object]]:
    bare = [seconds for name, seconds in times.items() if name.startswith("bare")]
    fastest = min(bare, key=statistics.median)
    rows: list[dict[str, object]] = []
    for name, seconds in times.items():
        share = ratio(fastest, seconds)
        row = {
            "loader": name,
            "images_per_second": count / statistics.median(seconds),
            "ratio": share.median,
            "spread": share.spread,
            "reach": None,
            "met": None,
        }
        if name == "kanseg":
            row["reach"] = TARGET
            row["met"] = round(share.median, 2) >= TARGET
        rows.append(row)
    return rows


def _times(datasets: dict[str, Dataset], case: LoaderCase) -> dict[str, list[float]]:
    """Seconds of each data set in each round. The data sets take turns, so that other load affects
    all alike.
    """
    options = {"batch_size": case.batch, "persistent_workers": case.workers > 0}
    loaders = {}
    for name, dataset in datasets.items():
        if isinstance(dataset, SegmentationDataset):
            loaders[name] = make_loader(dataset, workers=case.workers, **options)
        else:
            loaders[name] = DataLoader(dataset, num_workers=case.workers, **options)
    clock = time.perf_counter if case.workers else time.process_time
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(case.rounds + 1):
        for name, loader in loaders.items():
            dataset = loader.dataset
            start = clock()
            for batch in loader:
                if isinstance(dataset, SegmentationDataset):
                    to_device(batch, "cpu", dataset.preprocess)
            if turn > 0:  # the first turn starts the workers and fills the file cache
                times[name].append(clock() - start)
    return times


def loader_table(rows: Sequence[dict[str, object]]) -> str:
    """The rows of `loader_rows` as a Markdown table."""
    cells = []
    for row in rows:
        cells.append(
            (
                row["loader"],
                f"{row['images_per_second']:.0f}",
                f"{row['ratio']:.2f} ± {row['spread']:.2f}",
                str(row["reach"] or "-"),
                yes_or_no(row["met"]),
            )
        )
    return markdown_table(("loader", "images/s", "to the faster bare one", "target", "met"), cells)


def make_images(root: Path, count: int = 64, size: tuple[int, int] = (480, 640)) -> None:
    """Write a data set in the folder layout: JPEG images of smooth colors, and discs as masks."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    (root / "images").mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 32, (*size, 3), dtype=np.uint8)
        image = smooth // 2 + noise
        row, column = rng.integers(0, size[0]), rng.integers(0, size[1])
        radius = rng.integers(30, 120)
        mask = ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number:03d}.jpg", quality=90)
        write_png(root / "masks" / f"{number:03d}.png", mask)
