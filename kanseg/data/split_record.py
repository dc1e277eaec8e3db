"""The samples that a run was trained, validated and tested on, by name and by content.

The record is stored with the run, so that no sample changes its split unnoticed when the data set
changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kanseg.data.names import few, nfc
from kanseg.data.sample import Mask, Sample
from kanseg.data.splits import SPLITS
from kanseg.utils.errors import InputError

SPLIT = "split.json"  # file in a run folder and in each of its checkpoints
BYTES = 8  # of a digest: in one of 10^9 sets of 200,000 samples, two digests are equal by chance
DIGITS = 2 * BYTES
NOTHING = "0" * DIGITS  # digest of a missing mask
ENDS = 2**16  # bytes read at either end of a file if only its ends are read
ACCEPT = "--accept_changes"


@dataclass(frozen=True)
class Content:
    """Digests of a sample: of the bytes of its image, and of its mask (or its label)."""

    image: str
    mask: str = NOTHING


Members = Mapping[str, Content]  # name of a sample -> its content, in the order of the split


@dataclass(frozen=True)
class SplitRecord:
    """The samples of a run.

    Args:
        splits: train, val and test, each name -> content. A name is the path of the image below
            the root of the data set, or the name of the row of an array.
        earlier: (name, content) of samples that the run was trained on before the user accepted a
            change of the data set.
        complete: False for a run that was started without a record: its first training samples are
            unknown.
        sampled: True if digests cover the size and both ends of a file instead of all its bytes.
    """

    splits: Mapping[str, Members]
    earlier: tuple[tuple[str, Content], ...] = ()
    complete: bool = True
    sampled: bool = False

    @property
    def trained(self) -> list[tuple[str, Content]]:
        """(name, content) of all samples that the run was ever trained on."""
        return [*self.earlier, *self.splits.get("train", {}).items()]

    @property
    def samples(self) -> dict[str, Content]:
        """All samples of train, val and test."""
        return _all_members(self.splits)

    @property
    def images(self) -> set[str]:
        """Digests of the images of train, val and test."""
        return {content.image for content in self.samples.values()}

    def to_json(self) -> str:
        """Return the record as text for `from_json`; about 50 bytes per sample."""
        content = {
            "kanseg": 1,
            "complete": self.complete,
            "sampled": self.sampled,
            "splits": {name: _pack(members.items()) for name, members in self.splits.items()},
            "earlier": _pack(self.earlier),
        }
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: object) -> SplitRecord:
        """Return the record in a text.

        Raises:
            InputError: the text is not a record; `where` names its file.
        """
        try:
            content = json.loads(text)
            splits = {name: dict(_unpack(packed)) for name, packed in content["splits"].items()}
            return cls(
                splits,
                tuple(_unpack(content["earlier"])),
                bool(content["complete"]),
                bool(content["sampled"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{where}: damaged, not a record of splits; copy the file from a checkpoint of the"
                " run, or remove it (then the splits cannot be verified)"
            ) from None


def _pack(members: Iterable[tuple[str, Content]]) -> dict[str, Any]:
    """Return members as JSON with all digests in one string: 200,000 samples take 10 MB."""
    names, images, masks = [], [], []
    for name, content in members:
        names.append(name)
        images.append(content.image)
        masks.append(content.mask)
    return {"names": names, "images": "".join(images), "masks": "".join(masks)}


def _unpack(stored: Mapping[str, Any]) -> list[tuple[str, Content]]:
    names, images, masks = stored["names"], stored["images"], stored["masks"]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("names must be strings")
    if not len(images) == len(masks) == DIGITS * len(names):
        raise ValueError("there must be as many digests as names")
    members = []
    for number, name in enumerate(names):
        digits = slice(number * DIGITS, (number + 1) * DIGITS)
        members.append((name, Content(images[digits], masks[digits])))
    return members


def _all_members(splits: Mapping[str, Members]) -> dict[str, Content]:
    """Return the members of all splits together."""
    found: dict[str, Content] = {}
    for members in splits.values():
        found |= members
    return found


def read_record(folder: Path) -> SplitRecord | None:
    """Read the record in a checkpoint or run folder; None if there is none, as in older runs.

    Raises:
        InputError: it is damaged.
    """
    path = folder / SPLIT
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    return SplitRecord.from_json(text, path)


def name_of(path: Path | str, root: Path) -> str:
    """Return the path of an image relative to the root, with forward slashes and composed letters,
    so that it is the same on every system.
    """
    path = Path(path)
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return nfc(path.as_posix())


def unit_of(sample: Sample, root: Path) -> str:
    """Return the string that is hashed to split samples: the name of a sample without suffix."""
    return without_suffix(name_of(sample.image, root))


def without_suffix(name: str) -> str:
    """Return a name that stays the same when an image is saved in another format."""
    path = PurePosixPath(name)
    if not path.name:
        return name
    return str(path.with_suffix(""))


def digest(*parts: bytes | np.ndarray) -> str:
    """Return the digest of bytes as hexadecimal digits."""
    state = hashlib.blake2b(digest_size=BYTES)
    for part in parts:
        if isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part).data
        state.update(part)
    return state.hexdigest()


def file_digest(path: Path | str, *, ends_only: bool = False) -> str:
    """Return the digest of a file's bytes, or with `ends_only` of its size and both ends.

    Returns `NOTHING` for a file that cannot be read; the check of the data set reports it.
    """
    state = hashlib.blake2b(digest_size=BYTES)
    try:
        with Path(path).open("rb") as stream:
            if ends_only:
                size = stream.seek(0, 2)
                stream.seek(0)
                state.update(str(size).encode() + stream.read(ENDS))
                stream.seek(max(size - ENDS, 0))
                state.update(stream.read(ENDS))
                return state.hexdigest()
            while block := stream.read(2**20):
                state.update(block)
    except OSError:
        return NOTHING
    return state.hexdigest()


def mask_digest(mask: Mask, of_file: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of a mask: of its files, or of its annotated objects."""
    if mask is None:
        return NOTHING
    if isinstance(mask, Path):
        return of_file(mask)
    if isinstance(mask, tuple):
        parts = [b"-" if path is None else of_file(path).encode() for path in mask]
        return digest(*parts)
    parts = [repr(mask.size).encode()]
    for region in mask.regions:
        parts.append(repr((region.label, region.area, region.crowd)).encode())
        if isinstance(region.shape, Mapping):
            parts.append(json.dumps(region.shape, sort_keys=True, default=str).encode())
        else:
            parts += [np.asarray(p, dtype=np.float64).tobytes() for p in region.shape]
    return digest(*parts)


def sample_contents(
    samples: Iterable[Sample], root: Path, of_file: Callable[[Path], str] = file_digest
) -> dict[Sample, Content]:
    """Return the content of each sample; files are read in threads.

    Args:
        samples: images with their masks.
        root: of the data set.
        of_file: returns the digest of a file, for example from a cache.
    """
    samples = list(samples)

    def content(sample: Sample) -> Content:
        return Content(of_file(sample.image), mask_digest(sample.mask, of_file))

    with ThreadPoolExecutor() as pool:  # reading and hashing release the GIL
        return dict(zip(samples, pool.map(content, samples), strict=True))


@dataclass(frozen=True)
class KeptSplits:
    """The samples that a resumed run continues with.

    Args:
        members: train, val and test -> current names of their samples.
        record: of these samples.
        lines: for the log.
    """

    members: dict[str, list[str]]
    record: SplitRecord
    lines: list[str]


def keep_splits(
    record: SplitRecord,
    current: Mapping[str, Members],
    *,
    where: object,
    seeded: Collection[str] = (),
    changed: Collection[str] = (),
    accept: bool = False,
    log_new: bool = True,
) -> KeptSplits:
    """Return the samples of a resumed run, each in the split where the run has it.

    New samples are logged and left out, because the order of a run depends on their number.

    Args:
        record: stored by the run.
        current: train, val and test, each name -> content, as a new run would have them.
        where: the data set, for messages.
        seeded: splits that kanseg makes itself. If they come out differently now, that is not a
            change by the user, and the samples keep the split of the run.
        changed: splits that the settings of the resumed run replace; only samples that the run was
            trained on are refused in them.
        accept: use the data set as it is now, and log the changes.
        log_new: whether new samples are logged.

    Raises:
        InputError: samples are missing, changed, or listed for another split; unless `accept`.
    """
    everything = _all_members(current)
    found, renamed = _find_current_names(record, everything)
    changes = _find_changes(record, current, found, seeded=seeded, changed=changed)
    if renamed:
        changes["renamed"] = [f"{old} is now {new}" for old, new in renamed.items()]
    refused = []
    for heading, names in changes.items():
        refused.append(f"{heading}: {len(names)} images: {few(names)}")
    if refused and not accept:
        listing = "\n  ".join(refused)
        raise InputError(
            f"{where}: the data set has changed since this run was started:\n  {listing}\nrestore"
            f" it, start a new run, or continue with the changed data set with {ACCEPT}"
        )
    if accept:
        return _accept_current(record, current, refused)
    members: dict[str, list[str]] = {}
    for split, names in record.splits.items():
        if split not in changed:
            members[split] = [found[name] for name in names if found[name] is not None]
    known = set(found.values())
    for split in changed:
        if split in current:
            members[split] = list(current[split])
            known.update(current[split])
    lines = _lines_of_moved(record, current, found, seeded)
    new = [name for name in everything if name not in known]
    if new and log_new:
        lines.append(
            f"{len(new)} images are new since this run was started and are left out: {few(new)};"
            f" a new run includes them, or {ACCEPT}"
        )
    splits = {}
    for split, names in members.items():
        splits[split] = {name: everything[name] for name in names}
    kept = SplitRecord(splits, record.earlier, record.complete, record.sampled)
    return KeptSplits(members, kept, lines)


def _accept_current(
    record: SplitRecord, current: Mapping[str, Members], changes: Sequence[str]
) -> KeptSplits:
    """Return the samples of the data set as it is now.

    Args:
        record: stored by the run.
        current: train, val and test, each name -> content.
        changes: a line for each kind of change.
    """
    members = {split: list(names) for split, names in current.items()}
    lines = [f"warning: accepted by {ACCEPT}: {change}" for change in changes]
    for split in ("val", "test"):
        leaks = _find_leaks(record, current.get(split, {}))
        if leaks:
            lines.append(
                f"warning: this run was trained on {len(leaks)} of {len(current[split])} images of"
                f" {split}, so its scores on {split} are too good: {few(leaks)}"
            )
    known_names, known_images = record.samples, record.images
    for split, contents in current.items():
        new = []
        for name, content in contents.items():
            if name not in known_names and content.image not in known_images:
                new.append(name)
        if new:
            lines.append(f"{len(new)} new images in {split}: {few(new)}")
    train = current.get("train", {})
    earlier = tuple(pair for pair in record.trained if train.get(pair[0]) != pair[1])
    kept = SplitRecord(dict(current), earlier, record.complete, record.sampled)
    return KeptSplits(members, kept, lines)


def _find_current_names(
    record: SplitRecord, everything: Members
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return (name in the record -> current name or None if it is missing; renamed samples).

    A sample counts as renamed if its name is missing and a new name has its image.
    """
    recorded = record.samples
    unknown: dict[str, list[str]] = {}
    for name, content in everything.items():
        if name not in recorded:
            unknown.setdefault(content.image, []).append(name)
    found: dict[str, str | None] = {}
    renamed = {}
    for name, content in recorded.items():
        if name in everything:
            found[name] = name
        elif unknown.get(content.image):
            found[name] = renamed[name] = unknown[content.image].pop(0)
        else:
            found[name] = None
    return found, renamed


def _find_changes(
    record: SplitRecord,
    current: Mapping[str, Members],
    found: Mapping[str, str | None],
    *,
    seeded: Collection[str],
    changed: Collection[str],
) -> dict[str, list[str]]:
    """Return heading -> names of samples that have changed in this way."""
    everything = _all_members(current)
    changes: dict[str, list[str]] = {}
    for split, members in record.splits.items():
        if split in changed:
            continue
        for name, content in members.items():
            current_name = found[name]
            if current_name is None:
                changes.setdefault(f"missing from {split}", []).append(name)
                continue
            if everything[current_name].image != content.image:
                changes.setdefault(f"another image under the name ({split})", []).append(name)
            elif everything[current_name].mask != content.mask:
                changes.setdefault(f"another mask or label ({split})", []).append(name)
            splits_now = [other for other in current if current_name in current[other]]
            moved_by_kanseg = split in seeded and set(splits_now) <= set(seeded)
            if split not in splits_now and not moved_by_kanseg:
                heading = f"moved from {split} to {' and '.join(splits_now)}"
                changes.setdefault(heading, []).append(name)
    for split in changed:
        leaks = _find_leaks(record, current.get(split, {}))
        if leaks:
            changes[f"trained on, and now in {split}"] = leaks
    return changes


def _find_leaks(record: SplitRecord, members: Members) -> list[str]:
    """Return the names of samples that the run was trained on."""
    trained = _TrainedOn(record, same_set=True)
    return [name for name, content in members.items() if trained.contains(name, content.image)]


def _lines_of_moved(
    record: SplitRecord,
    current: Mapping[str, Members],
    found: Mapping[str, str | None],
    seeded: Collection[str],
) -> list[str]:
    """Return a line for samples that would be in another split of a new run."""
    moved = []
    for split in seeded:
        for name in record.splits.get(split, {}):
            current_name = found.get(name)
            if current_name is not None and current_name not in current.get(split, {}):
                moved.append(current_name)
    if not moved:
        return []
    return [
        f"{len(moved)} images would be in another split of a new run; they keep the split of this"
        f" run: {few(moved)}"
    ]


class _TrainedOn:
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

    def has_stem(self, name: str) -> bool:
        """Return True if the run was trained on an image of that name, whatever its suffix."""
        return without_suffix(name) in self.all_stems


@dataclass(frozen=True)
class UntrainedSamples:
    """The samples of an evaluation, divided by whether the network was trained on them.

    Args:
        keep: samples to evaluate: those that it was not trained on, and those that the user
            requests as training split.
        left_out: samples that it was trained on.
        lines: for the log.
    """

    keep: list[Sample]
    left_out: list[Sample]
    lines: list[str]


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
        requested_train: samples that are requested as the training split; they are kept and logged.
    """
    if record is None:
        line = (
            "this checkpoint has no record of its splits (an older run), so kanseg cannot verify"
            " whether its training images are among these"
        )
        return UntrainedSamples(list(samples), [], [line])

    def of_file(path: Path) -> str:
        return file_digest(path, ends_only=record.sampled)

    contents = sample_contents(samples, root, of_file)
    names = {sample: name_of(sample.image, root) for sample in samples}
    stored = record.samples
    for sample, content in contents.items():
        known = stored.get(names[sample])
        same_set = same_set or (known is not None and known.image == content.image)
    trained_on = _TrainedOn(record, same_set=same_set)
    requested = set(requested_train)
    keep, left_out, alike = [], [], []
    trained = 0
    for sample in samples:
        was_trained = trained_on.contains(names[sample], contents[sample].image)
        trained += was_trained
        if was_trained and sample not in requested:
            left_out.append(sample)
            continue
        keep.append(sample)
        if not same_set and trained_on.has_stem(names[sample]):
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
    return UntrainedSamples(keep, left_out, lines)


def _lines_of_trained(
    record: SplitRecord, names: Mapping[Sample, str], left_out: Sequence[Sample], trained: int
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
        lines.append(f"this run was trained on {trained - len(left_out)} of these images")
    return lines


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


def splits_of(data: Any, names: Iterable[str]) -> set[str]:
    """Return those of train, val and test for which the settings name one of the splits `names`."""
    names = set(names)
    return {split for split in SPLITS if names & set(getattr(data, split))}
