"""Counts over a data set: images, sizes, channels, pixels of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kanseg.data.checks.prober import LabelFacts, Prober
from kanseg.data.io.probe import ImageFacts
from kanseg.data.label_spec import LabelSpec
from kanseg.data.sample import Sample
from kanseg.utils.language import translate


@dataclass
class Statistics:
    """Counts over the samples of one split that have no problems.

    Args:
        images: number of images.
        sizes: (H, W) -> images.
        kinds: "RGB", "gray", ... -> images.
        mean, std: per channel over all pixels of the images with the most frequent number of
            channels, of the values scaled to [0, 1].
        pixels: of each class.
        ignored: pixels that are ignored.
        with_class: images that contain each class.
        multilabel: True if a pixel can count for several classes.
    """

    images: int = 0
    sizes: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: int = 0
    with_class: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    multilabel: bool = False

    @property
    def area(self) -> int:
        """Pixels of all images."""
        return sum(height * width * count for (height, width), count in self.sizes.items())

    @property
    def shares(self) -> np.ndarray:
        """Share of each class of the pixels that are not ignored (multilabel: of all pixels); NaN
        if there are none.
        """
        total = int(self.pixels.sum())
        if self.multilabel:
            total = self.area
        if total == 0:
            return np.full(len(self.pixels), np.nan)
        return self.pixels / total

    def class_text(self, index: int) -> str:
        """Return share and images of a class: `12.50 %, in 7`."""
        return translate(
            "{share} %, in {images}",
            share=f"{100 * self.shares[index]:.2f}",
            images=self.with_class[index],
        )

    def summary(self, spec: LabelSpec) -> str:
        """Return `RGB: 85 images; pixels: background 52.1 %, gland 47.9 %`."""
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.kinds.most_common())
        named = zip(spec.classes, self.shares, strict=True)
        shares = [f"{name} {100 * share:.1f} %" for name, share in named]
        if self.ignored:
            area = self.area
            if self.multilabel:
                area *= len(spec.classes)
            shares.append(
                translate(
                    "ignored {share} % of all", share=f"{100 * self.ignored / max(area, 1):.1f}"
                )
            )
        return translate("{kinds} images; pixels: {shares}", kinds=kinds, shares=", ".join(shares))

    def to_json(self, spec: LabelSpec | None) -> dict[str, Any]:
        """Return the statistics for the JSON report."""
        sizes = []
        for (height, width), count in self.sizes.most_common():
            sizes.append({"height": height, "width": width, "images": count})
        classes = []
        if spec is not None:
            for index, name in enumerate(spec.classes):
                share = None
                if not np.isnan(self.shares[index]):
                    share = round(float(self.shares[index]), 6)
                classes.append(
                    {
                        "name": name,
                        "pixels": int(self.pixels[index]),
                        "share": share,
                        "images": int(self.with_class[index]),
                    }
                )
        return {
            "images": self.images,
            "kinds": dict(self.kinds),
            "sizes": sizes,
            "mean": [round(value, 6) for value in self.mean],
            "std": [round(value, 6) for value in self.std],
            "ignored_pixels": self.ignored,
            "classes": classes,
        }


def three_digits(values: Sequence[float]) -> str:
    """Return values as text with three digits: `0.485 0.456 0.406`."""
    return " ".join(f"{value:.3f}" for value in values)


def statistics(
    samples: Sequence[Sample],
    labels: Mapping[Sample, LabelFacts],
    spec: LabelSpec | None,
    prober: Prober,
) -> Statistics:
    """Return the statistics of the samples whose images can be read."""
    result = Statistics()
    readable: list[ImageFacts] = []
    counts = []
    for sample in samples:
        image = prober.image(sample.image)
        if image.fault is not None:
            continue
        readable.append(image)
        result.sizes[tuple(image.size)] += 1
        result.kinds[image.kind] += 1
        if sample in labels:
            counts.append(labels[sample].counts)
            result.ignored += labels[sample].ignored
    result.images = len(readable)
    if readable:
        result.mean, result.std = _pooled_moments(readable)
    if spec is not None:
        table = np.array(counts, dtype=np.int64).reshape(-1, len(spec.classes))
        result.pixels, result.with_class = table.sum(axis=0), (table > 0).sum(axis=0)
        result.multilabel = spec.task == "multilabel"
    return result


def _pooled_moments(images: Sequence[ImageFacts]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel over the images with the most frequent channel number."""
    channels = Counter(image.channels for image in images).most_common(1)[0][0]
    alike = [image for image in images if image.channels == channels]
    weights = [float(image.size[0] * image.size[1]) for image in alike]
    means = np.array([image.mean for image in alike])
    squares = means**2 + np.array([image.std for image in alike]) ** 2
    mean = np.average(means, axis=0, weights=weights)
    variance = np.average(squares, axis=0, weights=weights) - mean**2
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(variance, 0)).tolist())
