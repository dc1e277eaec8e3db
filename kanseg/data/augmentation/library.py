"""What the transforms of all libraries have in common: names and options from the settings, and
errors in words.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import numpy as np

from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest
from kanseg.utils.text import one_line

Spec = Mapping[str, Mapping[str, object] | None] | str


class LibraryTransforms(ABC):
    """Transforms of one library, applied in order; the same seed gives the same result."""

    # Transforms that return something else than an image, for the message.
    not_images = ""

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None, seed: int, *, name: str = "image"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Transform an image (H, W, C) uint8, or float32 in [0, 1], and its mask (H, W) or (N, H,
        W) uint8 alike; a mask of None stays None.

        Raises:
            InputError: a transform fails on this image, or returns something else than an image
                of its type and channels.
        """
        try:
            changed, label = self._apply(image, mask, seed)
        # The libraries raise many kinds of exceptions; the user can fix the sample or the list.
        except Exception as error:
            raise InputError(
                "augmentation failed on an image of {height}x{width} pixels (height x width):"
                " {reason}",
                height=image.shape[0],
                width=image.shape[1],
                reason=one_line(error, None),
                where=name,
            ) from error
        is_image = isinstance(changed, np.ndarray) and changed.ndim == 3
        is_image = is_image and (changed.dtype, changed.shape[2]) == (image.dtype, image.shape[2])
        if is_image and mask is not None:
            is_image = isinstance(label, np.ndarray) and label.dtype == mask.dtype
            is_image = is_image and label.shape == (*mask.shape[:-2], *changed.shape[:2])
        if not is_image:
            raise InputError(
                "augmentation turned a {kind} image of {channels} channels into {described};"
                " leave out {not_images} and the like",
                kind=image.dtype,
                channels=image.shape[2],
                described=_described(changed),
                not_images=self.not_images,
                where=name,
            )
        return changed, label

    @abstractmethod
    def _apply(
        self, image: np.ndarray, mask: np.ndarray | None, seed: int
    ) -> tuple[object, object]:
        """Apply the transforms."""

    @abstractmethod
    def _single(self) -> Iterable[tuple[str, LibraryTransforms]]:
        """Yield (name, transform alone that is always applied) for each transform."""

    def refusing(self, image: np.ndarray) -> str | None:
        """Return the name of the first transform, even a rarely applied one, that accepts RGB
        images, but not this image (H, W, C); None if there is none.
        """
        for name, transform in self._single():
            if transform._accepts(image[:, :, [0] * 3]) and not transform._accepts(image):
                return name
        return None

    def _accepts(self, image: np.ndarray) -> bool:
        try:
            self(np.ascontiguousarray(image), np.zeros(image.shape[:2], np.uint8), 0)
        except InputError:
            return False
        return True


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
    name, options = name_and_options(spec)
    if name not in known:
        raise InputError(
            "{library} has no transform {name!r}{hint}",
            library=library,
            name=name,
            hint=nearest(str(name), known),
        )
    if not isinstance(options, Mapping):
        raise InputError(
            "augmentation {name}: options must be `{{option: value}}`, got {options!r}",
            name=name,
            options=options,
        )
    allowed = option_names(known[name])
    for option in options:
        if option not in allowed:
            raise InputError(
                "augmentation {name} has no option {option!r}{hint} (it has: {allowed})",
                name=name,
                option=option,
                hint=nearest(str(option), allowed),
                allowed=", ".join(allowed) or "none",
            )
    return known[name], dict(options)


def name_and_options(spec: object) -> tuple[object, object]:
    """Return the name and the options of a transform in the settings.

    Raises:
        InputError: another form than `Name` or `{Name: {option: value}}`.
    """
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise InputError(
            "an augmentation must be `Name` or `Name: {{option: value}}`, got {spec!r}", spec=spec
        )
    name, options = next(iter(spec.items()))
    return name, options or {}


def option_names(transform: type) -> list[str]:
    """Return the names of the arguments of a transform's constructor."""
    parameters = inspect.signature(transform.__init__).parameters
    return [name for name in parameters if name not in ("self", "args", "kwargs")]


def _described(value: object) -> str:
    """Describe what a transform returned, for a message."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
