"""Problems that concern several images: leaks, duplicates, outliers, absent classes."""

from __future__ import annotations

import filecmp
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import numpy as np

from kanseg.data.checks.prober import LabelFacts, Prober, mask_files
from kanseg.data.formats.issues import MAX_NAMES, Issue, issue_of_names
from kanseg.data.io.images import to_channels
from kanseg.data.io.probe import ImageFacts
from kanseg.data.label_spec import LabelSpec
from kanseg.data.names import few
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate

Splits = Mapping[str, Sequence[Sample]]  # train, val, test -> samples
OUTLIER = 4  # times the median height or width


def in_two_splits(splits: Splits, names: Mapping[str, Sequence[str]]) -> list[Issue]:
    """Find images that are in two of train, val and test, unless the settings use the same split
    for both.

    Args:
        splits: train, val, test -> samples.
        names: train, val, test -> the names of these splits in the data set.
    """
    issues = []
    for one, other in combinations(splits, 2):
        if set(names[one]) & set(names[other]):
            continue
        images = {sample.image for sample in splits[one]}
        both = [sample.name for sample in splits[other] if sample.image in images]
        if both:
            reason = translate(
                "{count} images are in {split} and in {other}",
                count=len(both),
                split=" + ".join(names[one]),
                other=" + ".join(names[other]),
            )
            issues.append(issue_of_names("in_two_splits", ".", reason, both))
    return issues


def duplicates(splits: Splits, prober: Prober) -> list[Issue]:
    """Find images with equal pixels, except images of a single color. Of two in different splits,
    `skip_bad` leaves out the one in the earlier split.
    """
    by_pixels: dict[str, dict[Path, tuple[str, Sample]]] = defaultdict(dict)
    for split, samples in splits.items():
        for sample in samples:
            facts = prober.image(sample.image)
            if facts.pixels and not facts.constant:
                by_pixels[facts.pixels].setdefault(sample.image, (split, sample))
    issues = []
    for group in by_pixels.values():
        *earlier, (last_split, last) = group.values()
        for split, sample in earlier:
            issues.append(_duplicate(split, sample, last_split, last, prober))
    return issues


def _duplicate(split: str, sample: Sample, last_split: str, last: Sample, prober: Prober) -> Issue:
    """Return the problem of an image that equals another one in the same or a later split."""
    name, other = prober.name(sample.image), prober.name(last.image)
    same = translate("the same pixels as {other}", other=other)
    with suppress(OSError):
        if filecmp.cmp(sample.image, last.image, shallow=False):
            same = translate("the same file as {other}", other=other)
    if split == last_split:
        reason = same + translate(", both in {split}", split=split)
        return Issue("duplicate", name, reason, details={"other": other})
    reason = same + translate(
        ": one is in {split}, the other in {last_split}; remove one of them",
        split=split,
        last_split=last_split,
    )
    details = {"other": other, "splits": [split, last_split]}
    return Issue("duplicate_in_two_splits", name, reason, (sample,), details)


def groups(group_of: Mapping[str, str] | None, splits: Splits) -> list[Issue]:
    """Find images without a group, and groups with images in two of train, val and test.

    Args:
        group_of: name of a sample -> group; None without groups.csv.
        splits: train, val, test -> samples.
    """
    if group_of is None:
        return []
    issues = []
    without: set[str] = set()
    splits_of_group: dict[str, set[str]] = defaultdict(set)
    for split, samples in splits.items():
        for sample in samples:
            if sample.name not in group_of:
                without.add(sample.name)
            elif group_of[sample.name]:
                splits_of_group[group_of[sample.name]].add(split)
    if without:
        reason = translate("{count} images have no group", count=len(without))
        issues.append(issue_of_names("no_group", "groups.csv", reason, sorted(without)))
    crossing = {}
    for group, found in splits_of_group.items():
        if len(found) > 1:
            crossing[group] = sorted(found)
    if crossing:
        reason = translate(
            "{count} groups are in two splits, so scores may be too good: {names}",
            count=len(crossing),
            names=few(crossing),
        )
        details = {"groups": dict(list(crossing.items())[:MAX_NAMES])}
        issues.append(Issue("group_in_two_splits", "groups.csv", reason, details=details))
    return issues


def size_outliers(samples: Sequence[Sample], prober: Prober) -> list[Issue]:
    """Find images more than four times larger or smaller than the median, in height or width."""
    images = _readable(samples, prober)
    if not images:
        return []
    median = np.median([facts.size for facts in images.values()], axis=0)
    issues = []
    for sample, facts in images.items():
        ratio = np.array(facts.size) / median
        if ratio.max() > OUTLIER or ratio.min() < 1 / OUTLIER:
            height, width = facts.size
            reason = translate(
                "is {size} pixels (height x width), the median is {median}",
                size=f"{height}x{width}",
                median=f"{median[0]:.0f}x{median[1]:.0f}",
            )
            details = {"size": [height, width]}
            name = prober.name(sample.image)
            issues.append(Issue("size_outlier", name, reason, details=details))
    return issues


def channels(samples: Sequence[Sample], prober: Prober, wanted: int) -> list[Issue]:
    """Find images that cannot be converted to the channels of the network, and data sets of several
    kinds of images (gray, RGB, 16-bit).
    """
    images = _readable(samples, prober)
    issues = []
    for sample, facts in images.items():
        try:
            pixel = np.zeros((1, 1, facts.channels), np.uint8)
            to_channels(pixel, wanted, name="it", alpha=facts.alpha)
        except InputError:
            none = ""
            if facts.channels in (2, 4) and not facts.alpha:
                none = translate(", none of them alpha,")
            reason = translate(
                "has {found} channels{none} and data.channels is {wanted}; convert the image, or"
                " set data.channels to {found}",
                found=facts.channels,
                none=none,
                wanted=wanted,
            )
            name, details = prober.name(sample.image), {"channels": facts.channels}
            issues.append(Issue("channels", name, reason, (sample,), details))
    issues += _floats_among_integers(images, prober)
    kinds = Counter(facts.kind for facts in images.values())
    if len(kinds) > 1:
        rarest = kinds.most_common()[-1][0]
        first = next(sample for sample, facts in images.items() if facts.kind == rarest)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        reason = translate("the first {kind} one of {counts} images", kind=rarest, counts=counts)
        name = prober.name(first.image)
        issues.append(Issue("channels_mixed", name, reason, details={"kinds": dict(kinds)}))
    return issues


def _readable(samples: Sequence[Sample], prober: Prober) -> dict[Sample, ImageFacts]:
    """Return the facts about the images that can be read."""
    found = {}
    for sample in samples:
        facts = prober.image(sample.image)
        if facts.fault is None:
            found[sample] = facts
    return found


def _floats_among_integers(images: Mapping[Sample, ImageFacts], prober: Prober) -> list[Issue]:
    """If a data set has both float and integer images, find those of the rarer type: their values
    are scaled differently, so a network accepts only one type.
    """
    floats, integers = [], []
    for sample, facts in images.items():
        if facts.is_float:
            floats.append(sample)
        else:
            integers.append(sample)
    if not floats or not integers:
        return []
    rarer, others = floats, translate("integers")
    if len(integers) < len(floats):
        rarer, others = integers, translate("floats")
    issues = []
    for sample in rarer:
        reason = translate(
            "is {kind}, and most images hold {others}; convert it",
            kind=images[sample].kind,
            others=others,
        )
        issues.append(Issue("channels", prober.name(sample.image), reason, (sample,)))
    return issues


def without_data(samples: Sequence[Sample], prober: Prober) -> list[str]:
    """Return a note about the pixels that images mark as without data (GDAL_NODATA)."""
    marking = [f for f in _readable(samples, prober).values() if f.nodata is not None]
    pixels = sum(facts.nodata for facts in marking)
    if not pixels:
        return []
    area = sum(facts.size[0] * facts.size[1] for facts in marking)
    return [
        translate(
            "{count} images define a value for pixels without data (GDAL_NODATA): {share} % of"
            " their pixels have it; they are ignored in masks and left out of statistics, and the"
            " network gets the mean there",
            count=len(marking),
            share=f"{100 * pixels / area:.1f}",
        )
    ]


def absent_classes(
    splits: Splits, labels: Mapping[Sample, LabelFacts], spec: LabelSpec
) -> list[Issue]:
    """Find classes without a pixel in a split."""
    issues = []
    for split, samples in splits.items():
        counts = [labels[sample].counts for sample in samples if sample in labels]
        if not counts:
            continue
        for name, pixels in zip(spec.classes, np.sum(counts, axis=0), strict=True):
            if not pixels:
                reason = translate("{split} has no pixel of {name}", split=split, name=name)
                details = {"split": split, "class": name}
                issues.append(Issue("class_absent", ".", reason, details=details))
    return issues


def masks_of_0_and_255(
    labels: Mapping[Sample, LabelFacts], spec: LabelSpec, prober: Prober
) -> list[Issue]:
    """Find masks of 0 and 255 if 255 is the ignored index: probably 255 marks the object, and the
    masks are misread as background and ignored.
    """
    if spec.mask_values is not None or spec.ignore_index != 255 or spec.task == "multilabel":
        return []
    suspicious, have_objects = [], False  # have_objects: other masks hold class indices
    for sample, label in labels.items():
        if any(label.counts[1:]):
            have_objects = True
        # crowds of a COCO file are meant to be ignored
        elif label.ignored and label.counts[0] and isinstance(sample.mask, Path):
            suspicious.append(sample)
    code = "mask_0_255"
    fix = translate("; if 255 is the object, give mask_values: {0: 0, 255: 1}")
    if have_objects:
        code = "mask_maybe_0_255"
        fix = translate(
            "; other masks hold indices; if 255 is the object here, divide this mask by 255"
        )
    name = spec.classes[0]
    reason = translate("holds only 0 and 255, which is read as {name} and ignored", name=name) + fix
    issues = []
    for sample in suspicious:
        path = next(mask_files(sample), sample.image)
        issues.append(Issue(code, prober.name(path), reason, (sample,)))
    return issues
