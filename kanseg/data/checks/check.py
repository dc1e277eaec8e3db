"""Check every file of a data set and report all problems at once. Nothing is written into its
folder.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kanseg.config import DataConfig
from kanseg.data.checks import sets
from kanseg.data.checks.cache import Cache
from kanseg.data.checks.mask_meaning import (
    classes_everywhere,
    colors_against_indices,
    read_by_color,
)
from kanseg.data.checks.needs import gamma_needs, training_needs
from kanseg.data.checks.prober import Prober
from kanseg.data.checks.report import Report
from kanseg.data.checks.samples import check_sample
from kanseg.data.checks.statistics import statistics
from kanseg.data.formats.issues import Issue, issue_of_names
from kanseg.data.label_spec import LabelSpec
from kanseg.data.opening import open_index
from kanseg.data.sample import Sample
from kanseg.data.splits import SPLITS
from kanseg.utils.language import translate
from kanseg.utils.registry import nearest

OTHER = "other"  # in the report: samples that are in none of train, val and test


def check_data(
    data: DataConfig, *, everything: bool = False, use_cache: bool = True, progress: bool = True
) -> Report:
    """Check the data set of the settings.

    Args:
        data: the settings.
        everything: also check images that are in no split of the settings.
        use_cache: reuse the results of earlier checks for files of the same size and time.
        progress: whether to show a progress bar, on a terminal.

    Raises:
        InputError: there is no such folder, or no such embedded data set.
    """
    started, root = time.perf_counter(), Path(data.root)
    cache = Cache(root, read=use_cache)
    prober = Prober(root, max_pixels=data.max_pixels, cache=cache, progress=progress)
    index = open_index(data, probe=prober.probe_masks)
    report = Report(index, prober, list(index.problems), notes=index.notes)
    _add_split_problems(report, data)
    _choose_samples(report, data, everything)
    _check_samples(report)
    _compare_samples(report, data)
    cache.save()
    report.seconds = time.perf_counter() - started
    return report


def _add_split_problems(report: Report, data: DataConfig) -> None:
    """Add the problems of split files: errors in the splits of the settings, warnings in others."""
    index = report.index
    used = {*data.train, *data.val, *data.test}
    for name, problems in index.split_problems.items():
        if name in used:
            report.issues += problems
        elif name in index.splits:  # other text files need not be split files
            for problem in problems:
                reason, details = problem.reason, problem.details
                report.issues.append(Issue("stray_split", problem.file, reason, details=details))


def _choose_samples(report: Report, data: DataConfig, everything: bool) -> None:
    """Fill the splits of the report: train, val and test, and `OTHER` with `everything` or if the
    layout has errors.
    """
    index = report.index
    for split in SPLITS:
        names = _existing_splits(getattr(data, split), split, report)
        samples: dict[Sample, None] = {}
        for name in names:
            samples |= dict.fromkeys(index.splits[name])
        report.names[split] = names
        report.splits[split] = list(samples)
    if index.unlisted and index.splits:
        names = [sample.name for sample in index.unlisted]
        reason = translate("{count} images are in no split", count=len(names))
        report.issues.append(issue_of_names("in_no_split", ".", reason, names))
    if everything or any(problem.kind.stops for problem in index.problems):
        used: set[Path] = set()
        for split in SPLITS:
            used.update(sample.image for sample in report.splits[split])
        others: dict[Path, Sample] = {}
        for samples in (*index.splits.values(), index.unlisted):
            for sample in samples:
                if sample.image not in used:
                    others.setdefault(sample.image, sample)
        report.splits[OTHER] = list(others.values())


def _existing_splits(names: Sequence[str], split: str, report: Report) -> list[str]:
    """Return the names of splits that exist. A missing split is an error, unless it is the default
    of val or test, which a data set need not have.

    Args:
        names: of the splits in the settings.
        split: that they are used for: train, val or test.
        report: receives the problems.
    """
    index = report.index
    if not index.splits:  # the layout is broken, which is reported already
        return []
    absent = [name for name in names if name not in {*index.splits, *index.split_problems}]
    found = ", ".join(index.splits)
    is_default = list(names) == [split] and split != "train" and not nearest(split, index.splits)
    if absent and is_default:
        consequence = translate("there will be no test scores")
        if split == "val":
            consequence = translate("the weights of the last epoch are used")
        report.notes += (
            translate(
                "there is no split {split!r}, so {consequence} (found: {found})",
                split=split,
                consequence=consequence,
                found=found,
            ),
        )
    else:
        for name in absent:
            reason = translate(
                "there is no split {name}{hint} (found: {found})",
                name=repr(name),
                hint=nearest(name, index.splits),
                found=found,
            )
            report.issues.append(Issue("no_split", ".", reason))
    return [name for name in names if name in index.splits]


def _check_samples(report: Report) -> None:
    """Probe all files in threads, then add the problems and labels of each sample."""
    prober, spec = report.prober, report.label_spec
    samples = report.all_samples()
    prober.probe_samples(samples)
    if spec is not None:
        # the values of one mask file are counted already, with the facts about that file
        several = spec.task == "multilabel"
        others = [s for s in samples if s.has_mask and (several or not isinstance(s.mask, Path))]
        prober.probe_labels(others, spec)
    for sample in samples:
        issues, label = check_sample(sample, spec, prober)
        report.issues += issues
        if label is not None:
            report.labels[sample] = label


def _compare_samples(report: Report, data: DataConfig) -> None:
    """Add problems that concern several samples, notes, and the statistics."""
    prober, spec, labels = report.prober, report.label_spec, report.labels
    splits = {split: report.splits[split] for split in SPLITS}
    samples = report.all_samples()
    report.issues += sets.in_two_splits(splits, report.names)
    report.issues += sets.duplicates(splits, prober)
    report.issues += sets.groups(report.index.groups, splits)
    report.issues += colors_against_indices(samples, spec, prober)
    report.issues += sets.channels(samples, prober, data.channels)
    report.issues += sets.size_outliers(samples, prober)
    if spec is not None:
        report.issues += sets.masks_of_0_and_255(labels, spec, prober)
        report.issues += classes_everywhere(labels, spec, prober)
        report.issues += sets.absent_classes(splits, labels, spec)
    report.notes += (
        *read_by_color(samples, spec, prober),
        *sets.without_data(samples, prober),
    )
    report.issues += gamma_needs(report.good(samples), data, prober)
    report.issues += training_needs(report.good(splits["train"]), data, prober)
    report.issues = list(dict.fromkeys(report.issues))
    for split, members in report.splits.items():
        report.statistics[split] = statistics(report.good(members), labels, spec, prober)


@dataclass
class SampleReport:
    """Problems of some samples (one line per bad sample) and counts over the good ones."""

    pixels: np.ndarray  # (classes + 1,) pixels of each class; the last entry counts ignored ones
    faults: dict[Sample, str] = field(default_factory=dict)
    kinds: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)  # (H, W) -> images


def check_samples(samples: Iterable[Sample], spec: LabelSpec) -> SampleReport:
    """Check that every image and mask can be read, that they have the same size, and that the mask
    values are classes.

    Nothing is written or cached.
    """
    samples = list(samples)
    prober = Prober(Path(), progress=False)
    prober.probe_samples(samples)
    report = SampleReport(np.zeros(len(spec.classes) + 1, dtype=np.int64))
    for sample in samples:
        issues, label = check_sample(sample, spec, prober)
        errors = [issue for issue in issues if issue.is_error]
        if errors:
            report.faults[sample] = f"{errors[0].file}: {errors[0].reason}"
        elif label is not None:
            image = prober.image(sample.image)
            report.kinds[image.kind] += 1
            report.sizes[tuple(image.size)] += 1
            report.pixels += np.array([*label.counts, label.ignored])
    return report
