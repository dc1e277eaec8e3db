"""What is wrong between the images of a data set: leaks, duplicates, outliers, absent classes."""

from __future__ import annotations

import filecmp
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kanseg.data.checks.files import ImageFacts
from kanseg.data.checks.inspector import Inspector, Label, mask_files
from kanseg.data.checks.kinds import Issue
from kanseg.data.checks.survey import DETAILED, few
from kanseg.data.io.images import to_channels
from kanseg.data.label_spec import LabelSpec
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.reading import parse_csv, read_text

Roles = Mapping[str, Sequence[Sample]]
OUTLIER = 4  # times the median height or width


def in_two_splits(roles: Roles, names: Mapping[str, Sequence[str]]) -> list[Issue]:
    """Images listed for two of train, val and test; a split that is named for both was
    meant so.
    """
    issues = []
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        meant = {sample for sample in roles[one] if set(names[one]) & set(names[other])}
        inside = {sample.image for sample in roles[one]} - {sample.image for sample in meant}
        both = [sample.name for sample in roles[other] if sample.image in inside]
        if both:
            where = f"{' + '.join(names[one])} and in {' + '.join(names[other])}"
            issues.append(
                Issue(
                    "in_two_splits",
                    ".",
                    f"{len(both)} images are in {where}: {few(both)}",
                    details={"names": both[:DETAILED]},
                )
            )
    return issues


def duplicates(roles: Roles, inspector: Inspector) -> list[Issue]:
    """Images of equal pixels, empty ones left out; across splits the copy in the earlier one is
    left out with `skip_bad`.
    """
    alike: dict[str, dict[Path, tuple[str, Sample]]] = defaultdict(dict)
    for role, samples in roles.items():
        for sample in samples:
            facts = inspector.image(sample.image)
            if facts.pixels and not facts.constant:
                alike[facts.pixels].setdefault(sample.image, (role, sample))
    return [
        issue
        for group in alike.values()
        if len(group) > 1
        for issue in _pairs(list(group.values()), inspector)
    ]


def _pairs(group: list[tuple[str, Sample]], inspector: Inspector) -> list[Issue]:
    """Each but the last of a group of equal images, compared with the last (roles come in the
    order train, val, test).
    """
    last_role, last = group[-1]
    issues = []
    for role, sample in group[:-1]:
        same = "the same file as" if _same_bytes(sample.image, last.image) else "the same pixels as"
        other = inspector.name(last.image)
        if role == last_role:
            issues.append(
                Issue(
                    "duplicate",
                    inspector.name(sample.image),
                    f"{same} {other}, both in {role}",
                    details={"other": other},
                )
            )
            continue
        reason = f"{same} {other}: one is in {role}, the other in {last_role}; remove one of them"
        issues.append(
            Issue(
                "duplicate_in_two_splits",
                inspector.name(sample.image),
                reason,
                (sample,),
                {"other": other, "splits": [role, last_role]},
            )
        )
    return issues


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def groups(root: Path, roles: Roles) -> list[Issue]:
    """Groups of groups.csv of which images are in two of train, val and test."""
    table = root / "groups.csv"
    if not table.is_file():
        return []
    try:
        rows = [row for row in parse_csv(read_text(table), table) if len(row) >= 2]
    except InputError as error:
        return [
            Issue(
                "no_group", table.name, f"cannot be read: {str(error).removeprefix(f'{table}: ')}"
            )
        ]
    group_of = {unicodedata.normalize("NFC", row[0].strip()): row[1].strip() for row in rows}
    issues = []
    without = sorted(
        {sample.name for samples in roles.values() for sample in samples} - group_of.keys()
    )
    if without:
        issues.append(
            Issue(
                "no_group",
                table.name,
                f"{len(without)} images have no group: {few(without)}",
                details={"names": without[:DETAILED]},
            )
        )
    where: dict[str, set[str]] = defaultdict(set)
    for role, samples in roles.items():
        for sample in samples:
            where[group_of.get(sample.name, "")].add(role)
    torn = {group: sorted(found) for group, found in where.items() if len(found) > 1 and group}
    if torn:
        reason = (
            f"{len(torn)} groups are in two splits, whose scores are then too good: {few(torn)}"
        )
        issues.append(
            Issue(
                "group_in_two_splits",
                table.name,
                reason,
                details={"groups": dict(list(torn.items())[:DETAILED])},
            )
        )
    return issues


def size_outliers(samples: Sequence[Sample], inspector: Inspector) -> list[Issue]:
    """Images more than four times larger or smaller than the median, in height or in width."""
    sizes = {
        sample: facts.size
        for sample in samples
        if (facts := inspector.image(sample.image)).fault is None
    }
    if not sizes:
        return []
    median = np.median(list(sizes.values()), axis=0)
    issues = []
    for sample, (height, width) in sizes.items():
        ratio = np.array([height, width]) / median
        if ratio.max() > OUTLIER or ratio.min() < 1 / OUTLIER:
            reason = f"is {width}x{height} pixels, the median is {median[1]:.0f}x{median[0]:.0f}"
            issues.append(
                Issue(
                    "size_outlier",
                    inspector.name(sample.image),
                    reason,
                    details={"size": [height, width]},
                )
            )
    return issues


def channels(samples: Sequence[Sample], inspector: Inspector, wanted: int) -> list[Issue]:
    """Images that do not convert to the network's channels, and a mixture of gray, RGB and 16-bit
    images.
    """
    good = {
        sample: facts
        for sample in samples
        if (facts := inspector.image(sample.image)).fault is None
    }
    issues = []
    for sample, facts in good.items():
        try:
            one = np.zeros((1, 1, facts.channels), np.uint8)
            to_channels(one, wanted, name="it", alpha=facts.alpha)
        except InputError:
            bands = facts.channels in (2, 4) and not facts.alpha
            none = ", none of which the file calls alpha," if bands else ""
            reason = (
                f"has {facts.channels} channels{none} and data.channels is {wanted}; convert the"
                f" image, or give data.channels {facts.channels}"
            )
            issues.append(
                Issue(
                    "channels",
                    inspector.name(sample.image),
                    reason,
                    (sample,),
                    {"channels": facts.channels},
                )
            )
    issues += _floats_among_integers(good, inspector)
    kinds = Counter(facts.kind for facts in good.values())
    if len(kinds) > 1:
        rarest = kinds.most_common()[-1][0]
        first = next(sample for sample, facts in good.items() if facts.kind == rarest)
        parts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        issues.append(
            Issue(
                "channels_mixed",
                inspector.name(first.image),
                f"the first {rarest} one of {parts} images",
                details={"kinds": dict(kinds)},
            )
        )
    return issues


def _floats_among_integers(good: Mapping[Sample, ImageFacts], inspector: Inspector) -> list[Issue]:
    """The fewer of float and integer images: a network takes one or the other, as their values
    are scaled differently.
    """
    floats = [
        sample for sample, facts in good.items() if facts.kind.startswith(("float", "int", "uint"))
    ]
    few = (
        floats
        if 2 * len(floats) <= len(good)
        else [sample for sample in good if sample not in set(floats)]
    )
    return [
        Issue(
            "channels",
            inspector.name(sample.image),
            f"is {good[sample].kind}, and most images hold"
            f" {'integers' if few is floats else 'floats'}; convert it",
            (sample,),
        )
        for sample in (few if floats else ())
    ]


def without_data(samples: Sequence[Sample], inspector: Inspector) -> list[str]:
    """A note on the pixels that images say hold no data."""
    facts = [inspector.image(sample.image) for sample in samples]
    stating = [each for each in facts if each.fault is None and each.nodata is not None]
    pixels = sum(each.nodata for each in stating)
    if not pixels:
        return []
    area = sum(each.size[0] * each.size[1] for each in stating)
    return [
        f"{len(stating)} images name a value for pixels without data (GDAL_NODATA):"
        f" {100 * pixels / area:.1f} % of their pixels have it; they are ignored in masks and left"
        " out of statistics, and the network sees the mean there"
    ]


def absent_classes(roles: Roles, labels: Mapping[Sample, Label], info: LabelSpec) -> list[Issue]:
    """Classes of which a split has no pixel."""
    issues = []
    for role, samples in roles.items():
        counted = [labels[sample].counts for sample in samples if sample in labels]
        missing = (
            [
                name
                for name, pixels in zip(info.classes, np.sum(counted, axis=0), strict=True)
                if not pixels
            ]
            if counted
            else []
        )
        what = {"train": "to train on"}.get(role, "to measure on")
        issues += [
            Issue(
                "class_absent",
                ".",
                f"{role} has no pixel of {name} {what}",
                details={"split": role, "class": name},
            )
            for name in missing
        ]
    return issues


def masks_of_0_and_255(
    labels: Mapping[Sample, Label], info: LabelSpec, inspector: Inspector
) -> list[Issue]:
    """Masks of 0 and 255 where 255 is an ignored index: an object mask that is read as nothing but
    background and void.
    """
    if info.mask_values is not None or info.ignore_index != 255 or info.task == "multilabel":
        return []
    only = [
        sample
        for sample, label in labels.items()
        if isinstance(sample.mask, Path)  # crowds of a COCO file are meant to be ignored
        and label.ignored
        and label.counts[0]
        and not any(label.counts[1:])
    ]
    nothing_else = not any(any(label.counts[1:]) for label in labels.values())
    code = "mask_0_255" if nothing_else else "mask_maybe_0_255"
    cure = (
        "if 255 is the object, give mask_values: {0: 0, 255: 1}"
        if nothing_else
        else "others hold indices; if 255 is the object here, divide this mask by 255"
    )
    reason = f"holds 0 and 255 only, which reads as {info.classes[0]} and ignored; {cure}"
    return [
        Issue(code, inspector.name(next(mask_files(sample), sample.image)), reason, (sample,))
        for sample in only
    ]
