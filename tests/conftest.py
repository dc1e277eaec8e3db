"""Small data sets and models that the tests make themselves."""

import os
import sys

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ["KANSEG_LANG"] = "en"  # the pages, whatever the locale

import numpy as np
import pytest
import torch
from PIL import Image

import kanseg
from kanseg.config import Config, DataConfig, ModelConfig, TrainingConfig
from kanseg.data import LabelSpec, Preprocess
from kanseg.inference.checkpoint import save_checkpoint
from kanseg.inference.description import describe
from kanseg.models import create_model

# The larger members of families whose smaller ones are tested by default.
LARGE_NETWORKS = {
    *("densekanet_121", "densekanet_161", "densekanet_169", "densekanet_201", "reskanet_34"),
    *("reskanet_50", "reskanet_101", "reskanet_152", "u2kanet", "ukanet_34", "ukanet_50"),
    *("ukanet_101", "ukanet_152", "vggkan13", "vggkan16", "vggkan19"),
}


def pytest_collection_modifyitems(items):
    """Tests of large networks are slow, and most cases of a test that is marked `slow_except`."""
    for item in items:
        if not hasattr(item, "callspec"):
            continue
        values = item.callspec.params.values()
        is_large = any(isinstance(value, str) and value in LARGE_NETWORKS for value in values)
        marker = item.get_closest_marker("slow_except")
        runs_by_default = marker is None or any(word in item.callspec.id for word in marker.args)
        if is_large or not runs_by_default:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """What is kept of checked data sets stays in the tests' own folder."""
    monkeypatch.setenv("KANSEG_CACHE", str(tmp_path_factory.getbasetemp() / "kanseg"))


@pytest.fixture
def float64():
    """Modules built in this test hold their constants in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_folder(root, count=6, size=(32, 40), classes=2, scale=1, splits=True):
    """Discs on noise in the folder form: images/NAME.png, masks/NAME.png with values class * scale,
    split files.
    """
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows, columns = np.mgrid[: size[0], : size[1]]
    names = [f"p{i:02d}" for i in range(count)]
    for name in names:
        mask = np.zeros(size, np.uint8)
        for label in range(1, classes):
            y, x, r = (
                rng.integers(4, size[0] - 4),
                rng.integers(4, size[1] - 4),
                rng.integers(5, 10),
            )
            mask[(rows - y) ** 2 + (columns - x) ** 2 < r * r] = label
        image = rng.integers(0, 60, (*size, 3)) + 60 * mask[..., None]
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(mask * scale).save(root / "masks" / f"{name}.png")
    if splits:
        third = max(count // 3, 1)
        parts = {
            "train": names[: count - 2 * third],
            "val": names[count - 2 * third : count - third],
            "test": names[count - third :],
        }
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
        data=DataConfig(
            root=str(folder), workers=0, augment=["HorizontalFlip", {"RandomRotate90": {"p": 0.0}}]
        ),
        model=ModelConfig("unet", "gram", options={"width": 4, "depth": 1, "inner_channels": 0.5}),
        training=TrainingConfig(
            epochs=2,
            batch_size=1,
            log_every=1,
            log_health=False,
            report=False,
            tensorboard=False,
        ),
    )


THEIR_LAYERS = """
from functools import lru_cache
import torch
from torch import nn

class KAGNConv2DLayer(nn.Module):
    def __init__(self, input_dim, output_dim, kernel_size, padding=0, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(input_dim, output_dim, kernel_size, padding=padding, groups=groups)

    @lru_cache(maxsize=128)
    def cached(self, x):
        return torch.exp(x)

    def forward(self, x):
        return self.conv(self.cached(x * 1))

class KABNConv2DLayer(KAGNConv2DLayer):
    def cached(self, x):
        x = torch.exp(x)
        x += 1
        return x
"""
THEIR_MODELS = """
from torch import nn

def ukagnet_18(input_channels, num_classes):
    return nn.Conv2d(input_channels, num_classes, 55, padding=27)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout that looks like torch-conv-kan's and needs nothing."""
    for name, text in (("kan_convs", THEIR_LAYERS), ("models", THEIR_MODELS)):
        (tmp_path / "theirs" / name).mkdir(parents=True)
        (tmp_path / "theirs" / name / "__init__.py").write_text(text)
        # so that what is imported under these names is forgotten after the test
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "theirs"


@pytest.fixture
def original(checkout):
    from kanseg.benchmark import Original

    return Original(checkout)


def write_checkpoint(run, step, with_state=True):
    """A checkpoint of a linear network in a run folder; (its folder, the network)."""
    model = torch.nn.Linear(2, 3)
    preprocess = Preprocess(mean=(0.1, 0.2, 0.3), resize=(8, 9))
    description = describe(Config(), LabelSpec("binary", ("a", "b")), preprocess)
    extra = {}
    if with_state:
        extra = {"state": {"step": step}, "tensors": {"optimizer": {"x": torch.ones(2)}}}
    folder = run / "checkpoints" / f"step_{step:08d}"
    return save_checkpoint(folder, model, description, Config(), **extra), model


def write_segmenter(folder, basis="gram"):
    """A checkpoint of a tiny network of three classes, all of which it predicts."""
    torch.manual_seed(0)
    config = Config(model=ModelConfig("unet", basis, options={"width": 4, "depth": 2}))
    model = create_model("unet", in_channels=3, classes=3, basis=basis, width=4, depth=2).eval()
    bias = list(model.parameters())[-1]
    with torch.no_grad():
        bias -= model(torch.randn(4, 3, 32, 32)).mean(dim=(0, 2, 3))
    preprocess = Preprocess(3, resize=(32, 32))
    description = describe(config, LabelSpec("multiclass", ("a", "b", "c")), preprocess)
    return save_checkpoint(folder, model, description, config)


def store_network(
    folder,
    name="unet",
    task="binary",
    classes=("a", "b"),
    resize=None,
    interpolation="linear",
    channels=3,
    **options,
):
    """A trained network as `save_pretrained` writes one; its weights are random."""
    torch.manual_seed(0)
    logits = 1 if task == "binary" else len(classes)
    model = kanseg.create_model(
        name, channels, logits, **({"width": 2, "depth": 1} if name == "unet" else {}) | options
    )
    for part in model.modules():  # running statistics of a trained network are not 0 and 1
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    labels = {
        "task": task,
        "classes": list(classes),
        "palette": [[40 * i, 0, 0] for i in range(len(classes))],
    }
    preprocess = {
        "channels": channels,
        "mean": [0.4] * channels,
        "std": [0.2] * channels,
        "gamma": 0.5,
        "resize": resize,
        "interpolation": interpolation,
    }
    model.description |= {
        "labels": labels,
        "preprocess": preprocess,
        "tile": None if resize else [48, 48],
    }
    model.save_pretrained(folder)
    return folder
