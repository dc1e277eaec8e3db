"""Leave the samples that a run was trained on out of its evaluation."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from kanseg.data.names import few
from kanseg.data.sample import Sample
from kanseg.data.splits.record import (
    NOTHING,
    Content,
    Members,
    SplitRecord,
    file_digest,
    name_of,
    sample_contents,
    without_suffix,
)

T = TypeVar("T", bound=Hashable)  # a sample of any kind


class TrainedOn:
    """The samples that a run was trained on, by name and by content.

    Args:
        record: of the run.
        same_set: True for the data set of the training, where names count too; in another data set
            only the content does.
    """

    def __init__(self, record: SplitRecord, *, same_set: bool):
        self.images: set[str] = set()
        self.names: set[str] = set()
        self.all_stems: set[str] = set()
        for name, content in record.trained:
            self.images.add(content.image)
            self.all_stems.add(without_suffix(name))
            if same_set:
                self.names.add(name)
        self.images.discard(NOTHING)
        self.stems: set[str] = set()
        self.evaluated: dict[str, str] = {}
        if same_set:
            self.stems = self.all_stems
            self.evaluated = self._never_trained(record)

    @staticmethod
    def _never_trained(record: SplitRecord) -> dict[str, str]:
        """Return name -> image of val and test, without samples that were in train before a change
        was accepted, possibly under another name.
        """
        earlier_stems, earlier_images = set(), set()
        for name, content in record.earlier:
            earlier_stems.add(without_suffix(name))
            earlier_images.add(content.image)
        found = {}
        for split in ("val", "test"):
            for name, content in record.splits.get(split, {}).items():
                was_trained = without_suffix(name) in earlier_stems
                if not was_trained and content.image not in earlier_images:
                    found[name] = content.image
        return found

    def contains(self, name: str, image: str) -> bool:
        """Return True if the run was trained on a sample."""
        if self.evaluated.get(name) == image:  # a blank image may be both in train and in test
            return name in self.names
        return image in self.images or without_suffix(name) in self.stems


@dataclass(frozen=True)
class UntrainedSamples(Generic[T]):
    """The samples of an evaluation, divided by whether the network was trained on them.

    Args:
        keep: samples to evaluate: those that it was not trained on, and those that the user
            requests as training split.
        left_out: samples that it was trained on.
        lines: for the log.
        trained: number of samples to evaluate that it was trained on.
    """

    keep: list[T]
    left_out: list[T]
    lines: list[str]
    trained: int = 0


def leave_out_trained(
    record: SplitRecord | None,
    samples: Sequence[Sample],
    *,
    root: Path,
    same_set: bool,
    splits: Collection[str],
    requested_train: Collection[Sample] = (),
) -> UntrainedSamples:
    """Leave out the samples that a run was trained on from an evaluation on val or test.

    Args:
        record: of the run; None if it has stored none.
        samples: to evaluate.
        root: of their data set.
        same_set: True if it is the data set of the training, where names count too; in another data
            set only the content does.
        splits: those of train, val and test that are evaluated.
        requested_train: samples that are requested as the training split; they are kept, with a
            warning.
    """
    if record is None:
        return unverified(samples, requested_train)

    def of_file(path: Path) -> str:
        return file_digest(path, ends_only=record.sampled)

    return divide_trained(
        record,
        {sample: name_of(sample.image, root) for sample in samples},
        sample_contents(samples, root, of_file),
        same_set=same_set,
        splits=splits,
        requested_train=requested_train,
    )


def unverified(samples: Sequence[T], requested_train: Collection[T]) -> UntrainedSamples[T]:
    """Keep all samples of an evaluation, because the run has stored no splits."""
    lines = [
        "this checkpoint has no record of its splits (an older run), so kanseg cannot verify"
        " whether its training images are among these"
    ]
    requested = set(requested_train)
    trained = sum(sample in requested for sample in samples)
    if trained:
        lines.append(_training_scores(trained, len(samples)))
    return UntrainedSamples(list(samples), [], lines, trained)


def divide_trained(
    record: SplitRecord,
    names: Mapping[T, str],
    contents: Mapping[T, Content],
    *,
    same_set: bool,
    splits: Collection[str],
    requested_train: Collection[T] = (),
) -> UntrainedSamples[T]:
    """As `leave_out_trained`, for samples of any kind.

    Args:
        record: of the run.
        names: sample -> its name relative to the root of the data set.
        contents: sample -> its content.
        same_set, splits, requested_train: as of `leave_out_trained`.
    """
    samples = list(names)
    requested = set(requested_train)
    stored = record.samples
    for sample, content in contents.items():
        known = stored.get(names[sample])
        same_set = same_set or (known is not None and known.image == content.image)
    trained_on = TrainedOn(record, same_set=same_set)
    keep, left_out, alike = [], [], []
    trained = 0
    for sample in samples:
        was_trained = trained_on.contains(names[sample], contents[sample].image)
        trained += was_trained
        if was_trained and sample not in requested:
            left_out.append(sample)
            continue
        keep.append(sample)
        if not same_set and without_suffix(names[sample]) in trained_on.all_stems:
            alike.append(names[sample])
    lines = _lines_of_trained(record, names, left_out, trained)
    if alike:
        lines.append(
            f"warning: {len(alike)} of {len(samples)} images have the names of training images of"
            " this run but other bytes; if they are re-encoded copies, the scores are too good:"
            f" {few(alike)}"
        )
    elif record.complete and not trained and samples:
        lines.append(f"this run was trained on none of these {len(samples)} images")
    if same_set:
        kept = {names[sample]: contents[sample] for sample in keep}
        lines += _lines_of_differences(record, kept, set(names.values()), splits)
    return UntrainedSamples(keep, left_out, lines, trained - len(left_out))


def _lines_of_trained(
    record: SplitRecord, names: Mapping[T, str], left_out: Sequence[T], trained: int
) -> list[str]:
    """Return lines for samples that the run was trained on.

    Args:
        record: of the run.
        names: of all samples.
        left_out: samples that are not evaluated.
        trained: number of samples that the run was trained on.
    """
    lines = []
    if not record.complete:
        lines.append(
            "this run was started by an older version, which stored no splits: its first training"
            " images could not be verified"
        )
    if left_out:
        shown = few(names[sample] for sample in left_out)
        lines.append(
            f"warning: this run was trained on {len(left_out)} of {len(names)} images, which are"
            f" left out of the scores: {shown}"
        )
    if trained > len(left_out):
        lines.append(_training_scores(trained - len(left_out), len(names) - len(left_out)))
    return lines


def _training_scores(trained: int, evaluated: int) -> str:
    """Return the warning of an evaluation on images that the run was trained on."""
    return (
        f"warning: these are training scores: this run was trained on {trained} of these"
        f" {evaluated} images, so they are better than on new images"
    )


def _lines_of_differences(
    record: SplitRecord, kept: Members, present: Collection[str], splits: Collection[str]
) -> list[str]:
    """Return lines for samples that are new, changed, missing, or were used to select the weights.

    Args:
        record: of the run.
        kept: the samples that are evaluated.
        present: their names and those of the samples that are left out.
        splits: those of train, val and test that are evaluated.
    """
    lines, stored, images = [], record.samples, record.images
    new, changed = [], []
    for name, content in kept.items():
        if name in stored and stored[name] != content:
            changed.append(name)
        elif name not in stored and content.image not in images:
            new.append(name)
    if new:
        lines.append(f"{len(new)} images are new since the training: {few(new)}")
    if changed:
        lines.append(
            f"{len(changed)} images or masks have changed since the training: {few(changed)}"
        )
    if "test" in splits and "val" not in splits:
        selecting = record.splits.get("val", {}).keys() - record.splits.get("test", {}).keys()
        used = [name for name in kept if name in selecting]
        if used:
            lines.append(
                f"warning: {len(used)} images selected the weights of this run (its split val):"
                f" {few(used)}"
            )
    expected: set[str] = set()
    for split in splits:
        expected.update(record.splits.get(split, {}))
    missing = sorted(expected.difference(present))
    if missing:
        lines.append(
            f"{len(missing)} images that this run has in {' + '.join(sorted(splits))} are no longer"
            f" among these: {few(missing)}"
        )
    return lines
