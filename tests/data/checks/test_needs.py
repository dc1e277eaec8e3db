import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import make_folder
from kanseg.config import Config, DataConfig, ModelConfig, TrainingConfig
from kanseg.data import check_data
from kanseg.training.run import train
from kanseg.utils.errors import InputError


def codes(root, **options):
    report = check_data(DataConfig(root=str(root), **options), progress=False)
    return {issue.code: issue.reason for issue in report.issues}


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "set", count=6, scale=255)


def deepen(root, name):
    """The same image with 16 bits, gray."""
    with Image.open(root / "images" / name) as image:
        values = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(root / "images" / name)


def test_a_set_of_8_and_16_bits_that_passes_the_check_is_trained_on(root, tmp_path):
    deepen(root, "p01.png")
    assert set(codes(root, resize=[16, 16])) == {"channels_mixed"}
    config = Config(
        run_dir=str(tmp_path / "run"),
        data=DataConfig(root=str(root), resize=[16, 16], workers=0),
        model=ModelConfig("unet", "none", options={"width": 4, "depth": 2}),
        training=TrainingConfig(
            epochs=1, batch_size=2, tensorboard=False, report=False, surface=False
        ),
    )
    assert train(config)["test"]["images"] == 2


def test_sizes_that_cannot_share_a_batch_are_reported(root):
    for kind in ("images", "masks"):
        with Image.open(root / kind / "p00.png") as image:
            image.crop((0, 0, 20, 20)).save(root / kind / "p00.png")
    found = codes(root)
    assert "2 sizes (" in found["sizes_mixed"]
    assert "data.resize" in found["sizes_mixed"]
    assert "sizes_mixed" not in codes(root, resize=[16, 16])
    assert "sizes_mixed" not in codes(root, crop=[16, 16])


def test_an_augmentation_that_the_run_would_refuse_is_refused_by_the_check(root):
    shutil.rmtree(root / "images")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        bands = rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(bands).save(root / "images" / f"p{number:02d}.png")
    colors = {"augment": [{"ToGray": {"p": 1.0}}]}
    assert "settings" not in codes(root, **colors)
    assert "HorizontalFlipp" in codes(root, augment=["HorizontalFlipp"])["settings"]
    with pytest.raises(InputError, match="HorizontalFlipp"):
        data = DataConfig(root=str(root), augment=["HorizontalFlipp"], workers=0)
        train(Config(run_dir=str(root.parent / "run"), data=data))


def test_floats_that_a_gamma_cannot_take_are_reported_in_every_split(root):
    test_name = (root / "test.txt").read_text().split()[0]
    for path in sorted((root / "images").iterdir()):
        with Image.open(path) as image:
            values = np.asarray(image, dtype=np.float32) / 255
        path.unlink()
        largest = 3 if path.stem == test_name else 1
        tifffile.imwrite(path.with_suffix(".tif"), largest * values, photometric="rgb")
    assert "channels" not in codes(root, resize=[16, 16])
    issues = check_data(DataConfig(root=str(root), resize=[16, 16], gamma=0.5)).errors
    assert [issue.code for issue in issues] == ["channels"]
    assert "data.gamma needs values from 0 to 1" in issues[0].reason
    assert test_name in issues[0].file
