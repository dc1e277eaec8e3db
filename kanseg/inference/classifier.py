"""Classify images of files and arrays with trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kanseg.data.io.decoded import DecodedImage
from kanseg.data.io.images import decode_image
from kanseg.inference.loading import TrainedNetwork
from kanseg.inference.predictor import DTYPES, usable_device
from kanseg.inference.segmenter import check_finite_output
from kanseg.inference.sources import ArrayImage
from kanseg.inference.tta import views
from kanseg.utils.errors import InputError

Image = str | Path | np.ndarray
OPTIONS = ("flips", "batch_size", "precision", "device")


@dataclass(frozen=True)
class Classification:
    """The result for one image.

    Args:
        name: of the class with the largest probability.
        probability: of this class, 0 to 1.
        probabilities: name -> probability of all classes; they sum to 1.
    """

    name: str
    probability: float
    probabilities: Mapping[str, float]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the most likely classes with their probabilities, the first first."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        return ranked[:count]


class Classifier:
    """Classify images with a trained network, or with several whose probabilities are averaged.

    Example:
        >>> classifier = kanseg.load("runs/mine/best")
        >>> classifier("image.jpg").name  # a file
        >>> classifier(image).probability  # (H, W, 3) uint8
        >>> [found.name for found in classifier(["a.jpg", "b.jpg"])]
        >>> classifier.probabilities(["a.jpg", "b.jpg"])  # (2, N)

    Args:
        networks: loaded checkpoints of classifiers with the same classes.
        flips: number of mirrored predictions to average: 1 (none), 2, 4, or 8 (also rotated by 90
            degrees).
        batch_size: images per batch.
        precision: "no" (float32), "bf16" or "fp16" for convolutions.
        device: torch device; by default a GPU if there is one.

    Raises:
        InputError: options out of range, networks with different classes, or a device that is not
            available.
    """

    def __init__(
        self,
        networks: Sequence[TrainedNetwork],
        *,
        flips: int = 1,
        batch_size: int = 64,
        precision: str = "no",
        device: str | torch.device | None = None,
    ):
        if not networks:
            raise InputError("an ensemble needs at least one classifier")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if precision not in DTYPES:
            raise InputError(f"precision must be one of {', '.join(DTYPES)}, got {precision!r}")
        self.classes = networks[0].classes
        for network in networks:
            if network.classes != self.classes:
                raise InputError(
                    f"members of an ensemble need the same classes: {', '.join(self.classes)}, and"
                    f" {', '.join(network.classes)}"
                )
            _check_flips(network, flips)
        self.views = views(flips)
        self.networks = tuple(networks)
        self.flips, self.batch_size, self.precision = flips, batch_size, precision
        self.device = usable_device(device)
        for network in networks:
            if isinstance(network.model, nn.Module):
                network.model.to(self.device).eval()

    def __call__(self, images: Image | Sequence[Image]) -> Classification | list[Classification]:
        """Classify an image, or a list of images.

        Args:
            images: a file, or an array (H, W) or (H, W, C), not normalized: uint8 from 0 to 255
                or uint16 from 0 to 65535; or a list of them, of any sizes.

        Returns:
            Class and probabilities of the image; of a list a list.

        Raises:
            InputError: a file that cannot be read, another type or shape, or channels that the
                network does not take.
        """
        rows = self.probabilities(images)
        if rows.ndim == 1:
            return self.name(rows)
        return [self.name(row) for row in rows]

    def probabilities(self, images: Image | Sequence[Image]) -> Tensor:
        """Predict the probabilities (N,) float32 of the classes of an image, or (P, N) of a list of
        P images; arguments and errors as of `__call__`.
        """
        if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim < 4):
            return self.probabilities([images])[0]
        rows = []
        for start in range(0, len(images), self.batch_size):
            inputs, names = [], []
            for number, image in enumerate(images[start : start + self.batch_size], start):
                decoded, name = _read(image, number)
                inputs.append(self.prepare(decoded, name=name))
                names.append(name)
            rows.append(self.predict(inputs, names))
        if not rows:
            return torch.empty(0, len(self.classes))
        return torch.cat(rows)

    def name(self, probabilities: Tensor) -> Classification:
        """Name the class of an image from its probabilities (N,)."""
        values = probabilities.tolist()
        best = max(range(len(values)), key=values.__getitem__)
        named = dict(zip(self.classes, values, strict=True))
        return Classification(self.classes[best], values[best], named)

    def prepare(self, image: DecodedImage, *, name: str = "image") -> tuple[Tensor, ...]:
        """Preprocess an image for each network: (C, h, w) float32.

        Raises:
            InputError: channels that a network does not take, or an image of another size than the
                only one that it takes.
        """
        inputs = []
        for network in self.networks:
            values = network.preprocess.scale(image, name=name)
            if network.one_size and tuple(values.shape[:2]) != network.image_size:
                height, width = network.image_size
                raise InputError(
                    f"{name}: has {values.shape[0]}x{values.shape[1]} pixels (height x width), and"
                    f" this network takes images of {height}x{width} only; resize it, or train with"
                    " data.resize"
                )
            inputs.append(network.preprocess.normalize(values))
        return tuple(inputs)

    def predict(self, inputs: Sequence[tuple[Tensor, ...]], names: Sequence[str]) -> Tensor:
        """Predict (P, N) probabilities, on the CPU, of P prepared images; those of one size share a
        batch.

        Args:
            inputs: of `prepare`.
            names: of the images, for messages.

        Raises:
            InputError: the network output is NaN or infinite.
        """
        result = torch.empty(len(inputs), len(self.classes))
        sizes: dict[tuple[torch.Size, ...], list[int]] = {}
        for number, tensors in enumerate(inputs):
            sizes.setdefault(tuple(tensor.shape for tensor in tensors), []).append(number)
        for numbers in sizes.values():
            for start in range(0, len(numbers), self.batch_size):
                chunk = numbers[start : start + self.batch_size]
                mean = torch.zeros(len(chunk), len(self.classes))
                for index, network in enumerate(self.networks):
                    batch = torch.stack([inputs[number][index] for number in chunk])
                    mean += self.logits(batch, network).softmax(dim=1).cpu()
                result[chunk] = mean / len(self.networks)
        check_finite_output(result, names.__getitem__)
        return result

    def logits(self, images: Tensor, network: TrainedNetwork | None = None) -> Tensor:
        """Predict the logits (B, N) float32 of normalized images (B, C, h, w), by default with the
        first network; with flips the logarithm of the mean probabilities.
        """
        model = (network or self.networks[0]).model
        autocast: AbstractContextManager = nullcontext()
        dtype = DTYPES[self.precision]
        if dtype is not None:
            autocast = torch.autocast(self.device.type, dtype)
        with torch.inference_mode(), autocast:
            images = images.to(self.device)
            outputs = [model(view.apply(images)).float() for view in self.views]
        if len(outputs) == 1:
            return outputs[0]
        return torch.stack([output.softmax(dim=1) for output in outputs]).mean(dim=0).log()

    def takes_other_size(self, inputs: tuple[Tensor, ...]) -> bool:
        """True if a prepared image has another size than the images that a network was trained
        on.
        """
        for network, tensor in zip(self.networks, inputs, strict=True):
            if network.image_size not in (None, tuple(tensor.shape[1:])):
                return True
        return False

    def describe(self) -> str:
        """Describe the input of the networks in a few words."""
        sizes = []
        for network in self.networks:
            if network.preprocess.resize is not None:
                sizes.append("resized to {}x{}".format(*network.preprocess.resize))
            elif network.image_size is not None:
                sizes.append("at their own size, trained on {}x{}".format(*network.image_size))
            else:
                sizes.append("at their own size")
        text = "; ".join(dict.fromkeys(sizes))
        if len(self.networks) > 1:
            text = f"{len(self.networks)} networks: {text}"
        return f"{text}, {len(self.classes)} classes"

    def provenance(self) -> list[dict[str, Any]]:
        """Everything that determines the classes, as plain JSON: for each network the SHA-256 of
        its weights, and the options.
        """
        found = []
        for network in self.networks:
            options = {"flips": self.flips, "precision": self.precision}
            found.append({"checkpoint": network.digest, **options})
        return found


def refuse_mask_options(options: Mapping[str, Any]) -> None:
    """Raise InputError if there are options that only networks which predict masks have."""
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise InputError(
            f"{', '.join(unknown)}: this checkpoint is a classifier, which predicts a class for the"
            f" whole image; of the options of an inference it takes {', '.join(OPTIONS)}"
        )


def _check_flips(network: TrainedNetwork, flips: int) -> None:
    """Raise InputError if rotated images would have a size that the network does not take."""
    if flips == 8 and network.one_size and network.image_size[0] != network.image_size[1]:
        height, width = network.image_size
        raise InputError(
            f"flips 8 rotates images, and this network takes images of {height}x{width} only; use"
            " 4 or less"
        )


def _read(image: Image, number: int) -> tuple[DecodedImage, str]:
    """Return the image of a file or an array, and its name for messages."""
    if isinstance(image, (str, Path)):
        return decode_image(image), str(image)
    name = f"image {number}"
    array = ArrayImage(image, name)
    return array.window(0, 0, *array.shape), name
