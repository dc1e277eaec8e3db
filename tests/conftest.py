"""Small data sets and models that the tests make themselves."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import pytest
import torch
from PIL import Image

from kanseg.config import Config, DataConfig, ModelConfig, TrainingConfig


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def float64():
    """Modules built in this test hold their constants in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_folder(root, count=6, size=(32, 40), classes=2, scale=1, splits=True):
    """Discs on noise in the folder form: images/NAME.png, masks/NAME.png with values class * scale, split files."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows, columns = np.mgrid[: size[0], : size[1]]
    names = [f"p{i:02d}" for i in range(count)]
    for name in names:
        mask = np.zeros(size, np.uint8)
        for label in range(1, classes):
            y, x, r = rng.integers(4, size[0] - 4), rng.integers(4, size[1] - 4), rng.integers(5, 10)
            mask[(rows - y) ** 2 + (columns - x) ** 2 < r * r] = label
        image = rng.integers(0, 60, (*size, 3)) + 60 * mask[..., None]
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(mask * scale).save(root / "masks" / f"{name}.png")
    if splits:
        third = max(count // 3, 1)
        parts = {"train": names[: count - 2 * third], "val": names[count - 2 * third : count - third], "test": names[count - third :]}
        for split, stems in parts.items():
            (root / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return root


@pytest.fixture
def folder(tmp_path):
    """A binary data set with masks of 0 and 255."""
    return make_folder(tmp_path / "set", scale=255)


@pytest.fixture
def config(tmp_path, folder):
    """A run of two tiny epochs on it."""
    return Config(
        run_dir=str(tmp_path / "run"),
        data=DataConfig(root=str(folder), workers=0, augment=["HorizontalFlip", {"RandomRotate90": {"p": 0.0}}]),
        model=ModelConfig("unet", "gram", options={"width": 4, "depth": 2, "inner_channels": 0.5}),
        training=TrainingConfig(epochs=2, batch_size=1, log_every=1, panels=2, tensorboard=False),
    )
