"""What a data set consists of: images, sizes, channels, pixels of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kanseg.data.checks.inspector import Inspector, Label
from kanseg.data.label_spec import LabelSpec
from kanseg.data.sample import Sample


@dataclass
class Statistics:
    """Of the faultless samples of one split.

    Args:
        images: their number.
        sizes: (H, W) -> images.
        kinds: "RGB", "gray", ... -> images.
        mean, std: per channel over all pixels of the images with the most frequent number of
        channels, of the values in [0, 1].
        pixels: of each class.
        ignored: pixels that are ignored.
        with_class: images that hold each class.
        multilabel: whether a pixel can count for several classes.
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
    def shares(self) -> np.ndarray:
        """Of each class, of the pixels that are not ignored (multilabel: of all pixels of the
        images); NaN where there are none.
        """
        area = sum(height * width * count for (height, width), count in self.sizes.items())
        total = area if self.multilabel else int(self.pixels.sum())
        return self.pixels / total if total else np.full(len(self.pixels), np.nan)

    def summary(self, info: LabelSpec) -> str:
        """`RGB: 85 images; pixels: background 52.1 %, gland 47.9 %`."""
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.kinds.most_common())
        shares = [
            f"{name} {100 * share:.1f} %"
            for name, share in zip(info.classes, self.shares, strict=True)
        ]
        area = sum(height * width * count for (height, width), count in self.sizes.items()) * (
            len(info.classes) if self.multilabel else 1
        )
        shares += (
            [f"ignored {100 * self.ignored / max(area, 1):.1f} % of all"] if self.ignored else []
        )
        return f"{kinds} images; pixels: {', '.join(shares)}"

    def to_json(self, info: LabelSpec | None) -> dict[str, Any]:
        """Numbers and names alone."""
        classes = [
            {
                "name": name,
                "pixels": int(pixels),
                "share": None if np.isnan(share) else round(float(share), 6),
                "images": int(images),
            }
            for name, pixels, share, images in zip(
                info.classes if info else (), self.pixels, self.shares, self.with_class, strict=True
            )
        ]
        sizes = [
            {"height": height, "width": width, "images": count}
            for (height, width), count in self.sizes.most_common()
        ]
        moments = {"mean": [round(v, 6) for v in self.mean], "std": [round(v, 6) for v in self.std]}
        return {
            "images": self.images,
            "kinds": dict(self.kinds),
            "sizes": sizes,
            **moments,
            "ignored_pixels": self.ignored,
            "classes": classes,
        }


def statistics(
    samples: Sequence[Sample],
    labels: Mapping[Sample, Label],
    info: LabelSpec | None,
    inspector: Inspector,
) -> Statistics:
    """Count over the samples whose images can be read; classes over those that have a
    label too.
    """
    facts = {
        sample: found
        for sample in samples
        if (found := inspector.image(sample.image)).fault is None
    }
    result = Statistics(
        len(facts),
        Counter(tuple(f.size) for f in facts.values()),
        Counter(f.kind for f in facts.values()),
    )
    if facts:
        most = Counter(f.channels for f in facts.values()).most_common(1)[0][0]
        alike = [f for f in facts.values() if f.channels == most]
        weights = np.array([f.size[0] * f.size[1] for f in alike], dtype=np.float64)
        mean, square = (
            np.average(values, axis=0, weights=weights)
            for values in ([f.mean for f in alike], [_squares(f) for f in alike])
        )
        result.mean, result.std = (
            tuple(mean.tolist()),
            tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist()),
        )
    if info is not None:
        counts = np.array(
            [labels[sample].counts for sample in facts if sample in labels], dtype=np.int64
        ).reshape(-1, len(info.classes))
        result.pixels, result.with_class = counts.sum(axis=0), (counts > 0).sum(axis=0)
        result.ignored = sum(labels[sample].ignored for sample in facts if sample in labels)
        result.multilabel = info.task == "multilabel"
    return result


def _squares(facts) -> np.ndarray:
    """Mean of the squares, per channel."""
    return np.square(facts.mean) + np.square(facts.std)
