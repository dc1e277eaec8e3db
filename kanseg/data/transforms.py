"""Augment images with masks by albumentations transforms."""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from kanseg.data.label_spec import IGNORE_INDEX
from kanseg.data.sampling import foreground_window
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest
from kanseg.utils.text import one_line

AUTO = "auto"
# What "auto" stands for: images that are mirrored left to right are as likely as the others in most
# data sets.
FLIPS = ({"HorizontalFlip": {"p": 0.5}},)


class Augmentation:
    """Augment an image and its mask; the same seed gives the same result.

    Pixels that a transform fills in are ignored in the mask (255).

    Args:
        transforms: [{name: {option: value}}] or names alone; names and options are those of
            albumentations 2.0. "auto" for FLIPS.
        crop: (h, w) of a random crop before the transforms, padded if the image is smaller; None
            for no crop.
        foreground: share of the crops that contain a pixel of a random class
            (`foreground_window`), from 0 to 1.

    Raises:
        InputError: a name or an option that albumentations does not have, or a value that it
            refuses; `foreground` without a crop.
    """

    def __init__(
        self,
        transforms: Sequence[Mapping[str, Mapping[str, object]] | str] | Literal["auto"],
        crop: Sequence[int] | None = None,
        foreground: float = 0.0,
    ):
        if not 0 <= foreground <= 1:
            raise InputError(
                f"data.oversample_foreground must be a share from 0 to 1, got {foreground}"
            )
        if foreground and crop is None:
            raise InputError(
                "data.oversample_foreground needs data.crop: [height, width] of the crops around a"
                " class"
            )
        self.crop, self.foreground = crop, foreground
        specs = list(FLIPS if transforms == AUTO else transforms)
        if crop is not None:
            size = {"height": int(crop[0]), "width": int(crop[1])}
            specs.insert(0, {"RandomCrop": size | {"pad_if_needed": True}})
        self.empty = not specs
        if not self.empty:
            self._compose = _albumentations().Compose([_build(spec) for spec in specs])

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, seed: int, *, name: str = "image"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image (H, W, C) and its mask (H, W) or (N, H, W) uint8 alike; uint16 images
        become float32 in [0, 1].

        Raises:
            InputError: a transform fails on this image, or returns something else than an image
                of its type.
        """
        if self.empty:
            return image, mask
        image, mask = self._around_a_class(image, mask, seed)
        if image.dtype == np.uint16:  # few transforms take 16 bits, nearly all take floats
            image = image.astype(np.float32) / 65535
        if image.dtype != np.float32:
            return self._apply(image, mask, seed, name)
        low, high = float(image.min()), float(image.max())
        if low >= 0 and high <= 1:
            return self._apply(image, mask, seed, name)
        # Brightness transforms expect floats from 0 to 1 and clip other values.
        span = np.float32(max(high - low, 1e-30))
        image, mask = self._apply((image - np.float32(low)) / span, mask, seed, name)
        return image * span + np.float32(low), mask

    def check(self, image: np.ndarray, *, name: str = "image") -> None:
        """Check that all transforms, even rarely applied ones, accept images of this type and
        number of channels.

        Raises:
            InputError: the first transform that accepts RGB images, but not this image.
        """
        if self.empty:
            return
        values = image
        if image.dtype == np.uint16:
            values = image.astype(np.float32) / 65535
        for transform in self._compose.transforms:
            if _works(transform, values[:, :, [0] * 3]) and not _works(transform, values):
                raise InputError(
                    f"{name}: augmentation {type(transform).__name__} needs RGB images and does not"
                    f" accept {image.shape[2]} channels of {values.dtype}; leave it out, or set"
                    " data.channels to 3 (or 1)"
                )

    def _around_a_class(
        self, image: np.ndarray, mask: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Crop around a class in a share (`foreground`) of the calls. The random crop that follows
        keeps the result, or pads it.
        """
        rng = np.random.default_rng([seed, 1])
        if not self.foreground or rng.random() >= self.foreground:
            return image, mask
        window = foreground_window(mask, (int(self.crop[0]), int(self.crop[1])), rng)
        if window is None:
            return image, mask
        return np.ascontiguousarray(image[window]), np.ascontiguousarray(mask[(..., *window)])

    def _apply(
        self, image: np.ndarray, mask: np.ndarray, seed: int, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the transforms."""
        self._compose.set_random_seed(seed)
        given = mask
        if mask.ndim == 3:  # albumentations has the classes of a multilabel mask last
            given = np.ascontiguousarray(mask.transpose(1, 2, 0))
        try:
            result = self._compose(image=image, mask=given)
        # albumentations and OpenCV raise many kinds of exceptions; the user can fix the sample or
        # the list of transforms
        except Exception as error:
            raise InputError(
                f"{name}: augmentation failed on an image of {image.shape[0]}x{image.shape[1]}"
                f" pixels (height x width): {one_line(error, None)}"
            ) from error
        changed, label = result["image"], result["mask"]
        if mask.ndim == 3:
            label = label.reshape(*label.shape[:2], len(mask)).transpose(2, 0, 1)
        size = label.shape[-2:]
        if (
            not isinstance(changed, np.ndarray)
            or changed.dtype != image.dtype
            or changed.size != size[0] * size[1] * image.shape[2]
        ):
            made = f"{changed.dtype} {tuple(changed.shape)}"
            raise InputError(
                f"{name}: augmentation turned a {image.dtype} image into {made}; leave out"
                " ToTensorV2, Normalize and the like"
            )
        return changed.reshape(*size, image.shape[2]), label


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return a seed from 0 to below 2^32, a hash of (seed, epoch, index)."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])


def parse_transform(
    spec: object, known: Mapping[str, type], library: str
) -> tuple[type, dict[str, object]]:
    """Return the class and the options of a transform in the settings: `Name` or `{Name: {option:
    value}}`.

    Args:
        spec: from the settings.
        known: name -> class of all transforms.
        library: of these transforms, for messages.

    Raises:
        InputError: another form, or a name or an option that the library does not have.
    """
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise InputError(
            f"an augmentation must be `Name` or `Name: {{option: value}}`, got {spec!r}"
        )
    name, options = next(iter(spec.items()))
    options = options or {}
    if name not in known:
        raise InputError(f"{library} has no transform {name!r}{nearest(str(name), known)}")
    if not isinstance(options, Mapping):
        raise InputError(
            f"augmentation {name}: options must be `{{option: value}}`, got {options!r}"
        )
    allowed = option_names(known[name])
    for option in options:
        if option not in allowed:
            raise InputError(
                f"augmentation {name} has no option {option!r}{nearest(str(option), allowed)} (it"
                f" has: {', '.join(allowed) or 'none'})"
            )
    return known[name], dict(options)


def option_names(transform: type) -> list[str]:
    """Return the names of the arguments of a transform's constructor."""
    parameters = inspect.signature(transform.__init__).parameters
    return [name for name in parameters if name not in ("self", "args", "kwargs")]


def _works(transform: object, image: np.ndarray) -> bool:
    """True if a transform accepts the image when it is applied."""
    always = copy.deepcopy(transform)
    always.p = 1.0
    try:
        always(image=np.ascontiguousarray(image))
    except Exception:  # of any kind; `check` compares with the result for an RGB image
        return False
    return True


def _albumentations():
    """Import albumentations (MIT license), without its version check over the network."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        importlib.metadata.version("albumentationsx")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        raise InputError(
            "albumentationsx (another license, the same import name) is installed; run `pip"
            " uninstall albumentationsx` and `pip install albumentations==2.0.8`"
        )
    import albumentations

    return albumentations


def _build(spec: Mapping[str, Mapping[str, object]] | str):
    """Build an albumentations transform from its name and options."""
    module = _albumentations()
    abstract = (
        module.BasicTransform,
        module.ImageOnlyTransform,
        module.DualTransform,
        module.Transform3D,
    )
    known = {}
    for name, kind in vars(module).items():
        is_transform = inspect.isclass(kind) and issubclass(kind, module.BasicTransform)
        if is_transform and kind not in abstract:
            known[name] = kind
    transform, options = parse_transform(spec, known, "albumentations")
    if "fill_mask" in option_names(transform):
        options.setdefault("fill_mask", IGNORE_INDEX)
    for option, value in options.items():
        if isinstance(value, list):
            options[option] = tuple(value)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return transform(**options)
        except (ValueError, TypeError, UserWarning) as error:
            raise InputError(
                f"augmentation {transform.__name__}: {one_line(error, None)}"
            ) from None
