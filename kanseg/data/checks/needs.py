"""What a training needs of its images beyond that each of them is whole: tried by the same code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kanseg.config import DataConfig
from kanseg.data.checks.inspector import Inspector
from kanseg.data.checks.kinds import Issue
from kanseg.data.preprocess import Preprocess
from kanseg.data.sample import Sample, read_sample_image
from kanseg.data.transforms import Augmentation
from kanseg.utils.errors import InputError


def training_needs(
    samples: Sequence[Sample], data: DataConfig, inspector: Inspector
) -> list[Issue]:
    """Settings of the augmentation that cannot be used, or not for one of the kinds of images, and
    sizes that cannot share a batch.

    Args:
        samples: the training samples, without those that are bad.
        data: the settings.
        inspector: of the data set.
    """
    if not samples:
        return []
    return [*_augmentation(samples, data, inspector), *_sizes(samples, data, inspector)]


def _augmentation(samples: Sequence[Sample], data: DataConfig, inspector: Inspector) -> list[Issue]:
    """Every transform is tried on the first image of each kind."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(inspector.image(sample.image).kind, sample)
    try:
        augmentation = Augmentation(data.augment, data.crop, data.oversample_foreground)
    except InputError as error:
        return [Issue("settings", ".", str(error))]
    if augmentation.empty:
        return []
    issues = []
    for sample in first.values():
        name = inspector.name(sample.image)
        try:
            image = read_sample_image(sample)
            plain = Preprocess(data.channels, gamma=data.gamma, floats=image.dtype.kind == "f")
            augmentation.check(plain.fit(image, name=name), name=name)
        except InputError as error:
            issues.append(Issue("settings", name, str(error).removeprefix(f"{name}: ")))
    return issues


def gamma_needs(samples: Sequence[Sample], data: DataConfig, inspector: Inspector) -> list[Issue]:
    """Images of floats beyond 0 to 1, where a gamma is set; all of them are read for it.

    Args:
        samples: good ones of all splits.
        data: the settings.
        inspector: of the data set.
    """
    if data.gamma == 1.0:
        return []
    floats = ("float", "int", "uint")
    issues = []
    for sample in samples:
        if not inspector.image(sample.image).kind.startswith(floats):
            continue
        name = inspector.name(sample.image)
        try:
            plain = Preprocess(data.channels, gamma=data.gamma, floats=True)
            plain.fit(read_sample_image(sample), name=name)
        except InputError as error:
            issues.append(Issue("channels", name, str(error).removeprefix(f"{name}: "), (sample,)))
    return issues


def _sizes(samples: Sequence[Sample], data: DataConfig, inspector: Inspector) -> list[Issue]:
    sizes = Counter(tuple(inspector.image(sample.image).size) for sample in samples)
    if len(sizes) < 2 or data.resize is not None or data.crop is not None:
        return []
    few = ", ".join(f"{width}x{height}" for (height, width), _ in sizes.most_common(3))
    reason = (
        f"the training images have {len(sizes)} sizes ({few}), which cannot share a batch: train"
        " with data.resize or data.crop, or with training.batch_size 1"
    )
    return [Issue("sizes_mixed", ".", reason, details={"sizes": len(sizes)})]
