"""Augmentation: a list of albumentations transforms as data, behind one small adapter."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from kanseg.data.info import IGNORED
from kanseg.errors import InputError
from kanseg.registry import nearest


class Augmentation:
    """(picture, label map, seed) -> (picture, label map): the same seed gives the same result, whatever came before.

    Args:
        transforms: [{name: {option: value}}] or names alone; names and options are those of albumentations 2.0.
        crop: (h, w) of a random crop that comes first, padded where the picture is smaller; or None.

    Pixels that a transform makes up are ignored in the label map (255).

    Raises:
        InputError: a name or an option that albumentations does not have, or a value that it refuses.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Mapping[str, object]] | str], crop: Sequence[int] | None = None):
        first = [] if crop is None else [{"RandomCrop": {"height": int(crop[0]), "width": int(crop[1]), "pad_if_needed": True}}]
        self.empty = not (first or transforms)
        if not self.empty:
            self._compose = _albumentations().Compose([_build(spec) for spec in [*first, *transforms]])

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int, *, name: str = "picture") -> tuple[np.ndarray, np.ndarray]:
        """(H, W, C) uint8 or uint16 and (H, W) uint8 -> the same, changed alike; a uint16 picture comes back as float32 in [0, 1].

        Raises:
            InputError: a transform fails on this picture, or returns something else than a picture of its type.
        """
        if self.empty:
            return image, mask
        if image.dtype == np.uint16:  # few transforms take 16 bits, nearly all take floats
            image = image.astype(np.float32) / 65535
        self._compose.set_random_seed(seed)
        try:
            result = self._compose(image=image, mask=mask)
        except Exception as error:  # albumentations and OpenCV raise whatever comes; the sample and the list are what a user can mend
            raise InputError(f"{name}: augmentation failed on a {image.shape[1]}x{image.shape[0]} picture: {' '.join(str(error).split())}") from error
        changed, label = result["image"], result["mask"]
        if not isinstance(changed, np.ndarray) or changed.dtype != image.dtype or changed.size != label.size * image.shape[2]:
            made = f"{changed.dtype} {tuple(changed.shape)}"
            raise InputError(f"{name}: augmentation made {made} of a {image.dtype} picture; leave out ToTensorV2, Normalize and the like")
        return changed.reshape(*label.shape, image.shape[2]), label


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A number that depends on (seed, epoch, index) alone, well mixed: 0 <= n < 2^32."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])


def _albumentations():
    """The module, without its question to the network, and the MIT line only."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        importlib.metadata.version("albumentationsx")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        raise InputError(
            "albumentationsx (another licence, the same import name) is installed; run `pip uninstall albumentationsx` and `pip install albumentations==2.0.8`"
        )
    import albumentations

    return albumentations


def _build(spec: Mapping[str, Mapping[str, object]] | str):
    """One transform from its name and options."""
    module = _albumentations()
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise InputError(f"an augmentation is `Name` or `Name: {{option: value}}`, got {spec!r}")
    name, options = next(iter(spec.items()))
    options = dict(options or {})
    abstract = (module.BasicTransform, module.ImageOnlyTransform, module.DualTransform, module.Transform3D)
    known = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, module.BasicTransform) and c not in abstract]
    if name not in known:
        raise InputError(f"albumentations has no transform {name!r}{nearest(name, known)}")
    transform = getattr(module, name)
    allowed = [p for p in inspect.signature(transform.__init__).parameters if p not in ("self", "args", "kwargs")]
    for option in options:
        if option not in allowed:
            raise InputError(f"augmentation {name} has no option {option!r}{nearest(option, allowed)} (it has: {', '.join(allowed)})")
    if "fill_mask" in allowed:
        options.setdefault("fill_mask", IGNORED)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return transform(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
        except (ValueError, TypeError, UserWarning) as error:
            raise InputError(f"augmentation {name}: " + " ".join(str(error).split())) from None
