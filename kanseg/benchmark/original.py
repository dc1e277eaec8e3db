"""Import layers and networks from the user's checkout of torch-conv-kan, to compare with them. None
of its code is part of this project.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from torch import nn

from kanseg.utils.errors import InputError

ADDRESS = "https://github.com/IvanDrokin/torch-conv-kan"
# With default options these have as many functions as ours, except wavelets: one per weight there,
# four per channel here.
LAYERS = {
    "bspline": "KANConv2DLayer",
    "rbf": "FastKANConv2DLayer",
    "legendre": "KALNConv2DLayer",
    "chebyshev": "KACNConv2DLayer",
    "gram": "KAGNConv2DLayer",
    "jacobi": "KAJNConv2DLayer",
    "bernstein": "KABNConv2DLayer",
    "relu": "ReLUKANConv2DLayer",
    "wavelet": "WavKANConv2DLayer",
}


class Counterpart(NamedTuple):
    """A network of torch-conv-kan, its options, and our options for the same topology."""

    name: str
    options: dict[str, object]
    ours: dict[str, object]


# (network, basis) -> the same network in torch-conv-kan
MODELS = {
    ("ukanet_18", "bspline"): Counterpart("ukanet_18", {}, {"width": 8}),
    ("ukanet_18", "rbf"): Counterpart("fast_ukanet_18", {}, {"width": 8}),
    ("ukanet_18", "legendre"): Counterpart("ukalnet_18", {}, {"width": 8}),
    ("ukanet_18", "chebyshev"): Counterpart("ukacnet_18", {}, {"width": 8}),
    ("ukanet_18", "gram"): Counterpart("ukagnet_18", {}, {"width": 8}),
    ("u2kanet_small", "bspline"): Counterpart("u2kanet_small", {}, {}),
    ("u2kanet_small", "gram"): Counterpart("u2kagnet_small", {}, {}),
    ("unet", "gram"): Counterpart(
        "UKAGNet",
        {"unet_depth": 5, "use_bottleneck": False},
        {"width": 16, "depth": 4, "downsample": "stride"},
    ),
}


class Original:
    """A checkout of torch-conv-kan.

    Raises:
        InputError: the folder is not a checkout, or a package that it imports is not installed.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path).resolve()
        if not (self.path / "kan_convs" / "__init__.py").is_file():
            raise InputError(
                f"{path}: expected a checkout of torch-conv-kan (a folder with kan_convs/), found"
                f" none; git clone {ADDRESS}"
            )
        self._import("kan_convs")

    def layer(self, basis: str, channels: int, groups: int = 1) -> nn.Module:
        """The 3x3 convolution of a basis with its defaults: (B, C, H, W) -> (B, C, H, W)."""
        return self._named("kan_convs", LAYERS[basis])(
            channels, channels, kernel_size=3, padding=1, groups=groups
        )

    def model(self, counterpart: Counterpart, classes: int) -> nn.Module:
        """The network: (B, 3, H, W) -> logits (B, classes, H, W), or a tuple of several."""
        return self._named("models", counterpart.name)(3, classes, **counterpart.options)

    def _named(self, module: str, name: str) -> type[nn.Module]:
        found = getattr(self._import(module), name, None)
        if found is None:
            raise InputError(
                f"torch-conv-kan in {self.path}: {module} has no {name}; get {ADDRESS}"
            )
        return found

    def _import(self, name: str) -> ModuleType:
        """Import a top-level module of the checkout."""
        sys.path.insert(0, str(self.path))
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise InputError(
                f"torch-conv-kan in {self.path}: its {name}/ needs the package {error.name!r},"
                f" which is not installed: python -m pip install {error.name}"
            ) from error
        finally:
            sys.path.remove(str(self.path))
        if self.path not in Path(module.__file__ or "").resolve().parents:
            raise InputError(
                f"{self.path}: another {name!r} is imported already, from {module.__file__}; run"
                " from another folder"
            )
        return module


def clear_method_caches(module: nn.Module) -> None:
    """Empty the caches of a module's methods.

    Some layers of torch-conv-kan use `lru_cache` on methods that take tensors. No tensor occurs
    twice, so the cache only keeps 128 graphs alive and fills the memory.
    """
    for kind in {type(part) for part in module.modules()}:
        for method in vars(kind).values():
            if hasattr(method, "cache_clear"):
                method.cache_clear()
