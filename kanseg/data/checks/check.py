"""Look at every file of a data set, and report all faults at once. Nothing is written into its
folder.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kanseg.config import DataConfig
from kanseg.data.checks import sets
from kanseg.data.checks.cache import Cache
from kanseg.data.checks.inspector import Inspector, Label, mask_files
from kanseg.data.checks.kinds import Issue
from kanseg.data.checks.mask_meaning import (
    classes_everywhere,
    colors_against_indices,
    read_by_color,
)
from kanseg.data.checks.needs import gamma_needs, training_needs
from kanseg.data.checks.opening import open_in_part
from kanseg.data.checks.report import Report
from kanseg.data.checks.samples import check_sample
from kanseg.data.checks.statistics import statistics
from kanseg.data.checks.survey import DETAILED, Survey, few, survey
from kanseg.data.label_spec import LabelSpec
from kanseg.data.opening import form_of, open_data
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

ROLES = ("train", "val", "test")
OTHER = "other"


def check_data(
    data: DataConfig, *, everything: bool = False, use_cache: bool = True, progress: bool = True
) -> Report:
    """Check the data set of the settings.

    Args:
        data: where it is and how it is read.
        everything: look at images in none of the splits that the settings name, too.
        use_cache: take what is known of files of the same size and time from an earlier check.
        progress: whether to show a bar, on a terminal.

    Raises:
        InputError: the folder is not there, or the settings name an embedded set that is not known.
    """
    started, root = time.perf_counter(), Path(data.root)
    if data.prepare is not None and not root.is_dir():
        open_data(data, log=lambda _: None)
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder (looked for {root.resolve()}); expected images/ and masks/, or"
            " train/, val/ and test/ with them"
        )
    cache = Cache(root, read=use_cache)
    inspector = Inspector(root, max_pixels=data.max_pixels, cache=cache, progress=progress)
    found = _surveyed(root, data)
    folder, info, issues = open_in_part(data, found, inspector)
    report = Report(
        root,
        folder,
        info,
        inspector,
        [*found.issues, *issues],
        notes=folder.notes if folder else (),
    )
    _choose(report, data, found, everything)
    samples = [sample for some in report.splits.values() for sample in some]
    inspector.look(
        [sample.image for sample in samples],
        [path for sample in samples for path in mask_files(sample)],
    )
    if info is not None:
        inspector.look_at_labels(
            [
                sample
                for sample in samples
                if sample.mask and (info.task == "multilabel" or not isinstance(sample.mask, Path))
            ],
            info,
        )
    _look(report, samples, info)
    _compare(report, data, info)
    cache.save()
    report.seconds = time.perf_counter() - started
    return report


def _surveyed(root: Path, data: DataConfig) -> Survey:
    """The layout of a set in the folder form; that of another form, whose images may lie in
    images/ too, is told by its files alone.
    """
    try:
        other = form_of(data) != "folder"
    except InputError:  # several forms, which is said when the set is opened
        other = True
    return (
        Survey(root)
        if other
        else survey(root, {name for role in ROLES for name in getattr(data, role)})
    )


def _choose(report: Report, data: DataConfig, found: Survey, everything: bool) -> None:
    """The samples of train, val and test, and with `everything` the others."""
    surveyed = found.splits()  # also has what can be used of faulty split files
    splits = surveyed | (dict(report.folder.splits) if report.folder is not None else {})
    for role in ROLES:
        report.names[role] = _present(getattr(data, role), role, report, list(splits))
        report.splits[role] = list(
            dict.fromkeys(sample for name in report.names[role] for sample in splits[name])
        )
    used = {sample.image for samples in report.splits.values() for sample in samples}
    listed = {sample.image: sample for samples in splits.values() for sample in samples}
    unlisted = [
        sample
        for samples in found.samples().values()
        for sample in samples
        if sample.image not in listed
    ]
    if unlisted and found.listed:
        names = [sample.name for sample in unlisted]
        report.issues.append(
            Issue(
                "in_no_split",
                ".",
                f"{len(names)} images are in no split: {few(names)}",
                details={"names": names[:DETAILED]},
            )
        )
    if everything or report.folder is None:
        report.splits[OTHER] = [
            sample for path, sample in listed.items() if path not in used
        ] + unlisted


def _present(names: Sequence[str], role: str, report: Report, known: list[str]) -> list[str]:
    """The names of the splits that are there; a plain val or test that is not is a note, another
    name an error.
    """
    if not known:  # the layout is broken, which is said
        return []
    broken = report.folder.broken if report.folder is not None else {}
    absent = [name for name in names if name not in known and name not in broken]
    there = f"(found: {', '.join(known)})"
    if absent == [role] == list(names) and role != "train" and not nearest(role, known):
        what = "selected" if role == "val" else "measured"
        report.notes = (
            *report.notes,
            f"there is no split {role!r}, so nothing is {what} on one {there}",
        )
    else:
        report.issues += [
            Issue("no_split", ".", f"there is no split {name!r}{nearest(name, known)} {there}")
            for name in absent
        ]
    said = {issue.file for issue in report.issues}
    for name in set(names) & set(broken):
        if f"{name}.txt" not in said:  # a list of another format than the folder form
            report.issues.append(Issue("no_split", ".", str(broken[name])))
    return [name for name in names if name in known]


def _look(report: Report, samples: Iterable[Sample], info: LabelSpec | None) -> None:
    """Faults of single samples, and the labels of the others."""
    for sample in dict.fromkeys(samples):
        issues, label = check_sample(sample, info, report.inspector)
        report.issues += issues
        if label is not None:
            report.labels[sample] = label


def _compare(report: Report, data: DataConfig, info: LabelSpec | None) -> None:
    """Faults between samples, and the statistics."""
    roles = {role: report.splits[role] for role in ROLES}
    everyone = list(
        dict.fromkeys(sample for samples in report.splits.values() for sample in samples)
    )
    report.issues += (
        sets.in_two_splits(roles, report.names)
        + sets.duplicates(roles, report.inspector)
        + sets.groups(report.root, roles)
    )
    report.issues += colors_against_indices(everyone, info, report.inspector)
    report.notes = (
        *report.notes,
        *read_by_color(everyone, info, report.inspector),
        *sets.without_data(everyone, report.inspector),
    )
    report.issues += sets.channels(everyone, report.inspector, data.channels) + sets.size_outliers(
        everyone, report.inspector
    )
    if info is not None:
        report.issues += sets.masks_of_0_and_255(report.labels, info, report.inspector)
        report.issues += classes_everywhere(report.labels, info, report.inspector)
        report.issues += sets.absent_classes(roles, report.labels, info)
    good = [sample for sample in everyone if sample not in report.bad]
    report.issues += gamma_needs(good, data, report.inspector)
    bad = report.bad
    train = [sample for sample in roles["train"] if sample not in bad]
    report.issues += training_needs(train, data, report.inspector)
    report.issues = list(dict.fromkeys(report.issues))
    for split, samples in report.splits.items():
        report.statistics[split] = statistics(
            [sample for sample in samples if sample not in bad],
            report.labels,
            info,
            report.inspector,
        )


@dataclass
class SampleReport:
    """What a look at some samples found: faults (a line for each bad sample) and counts over the
    good ones.
    """

    pixels: np.ndarray  # (classes + 1,) pixels of each class; the last entry counts ignored ones
    faults: dict[Sample, str] = field(default_factory=dict)
    kinds: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)  # (H, W) -> images


def check_samples(samples: Iterable[Sample], info: LabelSpec) -> SampleReport:
    """Decode every image and mask once: readable, of one size, with values that are classes.
    Nothing is written, nothing cached.
    """
    samples = list(samples)
    inspector = Inspector(Path(), progress=False)
    inspector.look(
        [sample.image for sample in samples],
        [path for sample in samples for path in mask_files(sample)],
    )
    labels: dict[Sample, Label] = {}
    report = SampleReport(np.zeros(len(info.classes) + 1, dtype=np.int64))
    for sample in samples:
        issues, label = check_sample(sample, info, inspector)
        faults = [
            f"{issue.file}: {issue.reason}" for issue in issues if issue.kind.severity == "error"
        ]
        if faults:
            report.faults[sample] = faults[0]
        elif label is not None:
            labels[sample] = label
    return _count(report, labels, inspector)


def _count(
    report: SampleReport, labels: Mapping[Sample, Label], inspector: Inspector
) -> SampleReport:
    for sample, label in labels.items():
        image = inspector.image(sample.image)
        report.kinds[image.kind] += 1
        report.sizes[tuple(image.size)] += 1
        report.pixels += np.array([*label.counts, label.ignored])
    return report
