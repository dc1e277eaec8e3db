"""Check that a training can use the images, by running the code of the training on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kanseg.config import DataConfig
from kanseg.data.checks.prober import Prober
from kanseg.data.formats.issues import Issue
from kanseg.data.preprocess import Preprocess
from kanseg.data.sample import Sample, read_sample_image
from kanseg.data.transforms import Augmentation
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate


def training_needs(samples: Sequence[Sample], data: DataConfig, prober: Prober) -> list[Issue]:
    """Find augmentations that cannot be used, or not with one of the kinds of images, and images of
    different sizes, which cannot share a batch.

    Args:
        samples: the training samples without errors.
        data: the settings.
        prober: of the data set.
    """
    if not samples:
        return []
    return _augmentation(samples, data, prober) + _sizes(samples, data, prober)


def gamma_needs(samples: Sequence[Sample], data: DataConfig, prober: Prober) -> list[Issue]:
    """Find float images with values outside [0, 1] if a gamma is set; this reads all float images.

    Args:
        samples: of all splits, without errors.
        data: the settings.
        prober: of the data set.
    """
    if data.gamma == 1.0:
        return []
    issues = []
    for sample in samples:
        if not prober.image(sample.image).is_float:
            continue
        name = prober.name(sample.image)
        try:
            preprocess = Preprocess(data.channels, gamma=data.gamma, floats=True)
            preprocess.fit(read_sample_image(sample), name=name)
        except InputError as error:
            issues.append(Issue("channels", name, error.reason, (sample,)))
    return issues


def _augmentation(samples: Sequence[Sample], data: DataConfig, prober: Prober) -> list[Issue]:
    """Apply every transform to the first image of each kind."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(prober.image(sample.image).kind, sample)
    try:
        augmentation = Augmentation(data.augment, data.crop, data.oversample_foreground)
    except InputError as error:
        return [Issue("settings", ".", str(error))]
    if augmentation.empty:
        return []
    issues = []
    for sample in first.values():
        name = prober.name(sample.image)
        try:
            image = read_sample_image(sample)
            preprocess = Preprocess(data.channels, gamma=data.gamma, floats=image.dtype.kind == "f")
            augmentation.check(preprocess.fit(image, name=name), name=name)
        except InputError as error:
            issues.append(Issue("settings", name, error.reason))
    return issues


def _sizes(samples: Sequence[Sample], data: DataConfig, prober: Prober) -> list[Issue]:
    """Find training images of several sizes."""
    sizes = Counter(tuple(prober.image(sample.image).size) for sample in samples)
    if len(sizes) < 2 or data.resize is not None or data.crop is not None:
        return []
    shown = ", ".join(f"{height}x{width}" for (height, width), _ in sizes.most_common(3))
    reason = translate(
        "the training images have {count} sizes (height x width: {sizes}), which cannot share a"
        " batch: train with data.resize or data.crop, or with training.batch_size 1",
        count=len(sizes),
        sizes=shown,
    )
    return [Issue("sizes_mixed", ".", reason, details={"sizes": len(sizes)})]
