"""A checkout that looks like torch-conv-kan's and needs nothing."""

import sys

import pytest

from kanseg.benchmark import Original

LAYERS = """
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
MODELS = """
from torch import nn

def ukagnet_18(input_channels, num_classes):
    return nn.Conv2d(input_channels, num_classes, 55, padding=27)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name, text in (("kan_convs", LAYERS), ("models", MODELS)):
        (tmp_path / "theirs" / name).mkdir(parents=True)
        (tmp_path / "theirs" / name / "__init__.py").write_text(text)
        # so that what is imported under these names is forgotten after the test
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "theirs"


@pytest.fixture
def original(checkout):
    return Original(checkout)
