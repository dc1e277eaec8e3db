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

from kanseg.data.sample import Mask, Sample
from kanseg.data.splits import SPLITS, nfc
from kanseg.utils.errors import InputError

SPLIT = "split.json"  # in a run folder, and in each of its checkpoints
BYTES = 8  # of a digest: in one of 10^9 sets of 200,000 samples, two digests are equal by chance
DIGITS = 2 * BYTES
NOTHING = "0" * DIGITS  # digest of a missing mask
ENDS = 2**16  # bytes that are read at either end of a file if only its ends are read
SHOWN = 5  # names in a line; the others are counted
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
        earlier: (name, content) of samples that were trained on before a change of the data set
            was accepted.
        complete: False for a run that was started without a record: what it was trained on before
            is unknown.
        sampled: True if digests are of the size and the ends of files, not of all their bytes.
    """

    splits: Mapping[str, Members]
    earlier: tuple[tuple[str, Content], ...] = ()
    complete: bool = True
    sampled: bool = False

    @property
    def trained(self) -> list[tuple[str, Content]]:
        """(name, content) of everything that was ever trained on."""
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
            "splits": {role: _pack(members.items()) for role, members in self.splits.items()},
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
            return cls(
                {role: dict(_unpack(members)) for role, members in content["splits"].items()},
                tuple(_unpack(content["earlier"])),
                bool(content["complete"]),
                bool(content["sampled"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{where}: damaged, not the record of a split; take the file from a checkpoint of"
                " the run, or remove it (then nothing can be verified)"
            ) from None


def _pack(members: Iterable[tuple[str, Content]]) -> dict[str, Any]:
    """Return members as JSON with one text for all digests: 200,000 samples take 10 MB."""
    members = list(members)
    return {
        "names": [name for name, _ in members],
        "images": "".join(content.image for _, content in members),
        "masks": "".join(content.mask for _, content in members),
    }


def _unpack(stored: Mapping[str, Any]) -> list[tuple[str, Content]]:
    names, images, masks = stored["names"], stored["images"], stored["masks"]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("names must be texts")
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
    """Return the path of an image below the root, with forward slashes and composed letters: the
    same on every system, wherever the data set is.
    """
    path = Path(path)
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return nfc(inside.as_posix())


def unit_of(sample: Sample, root: Path) -> str:
    """Return what decides the split or fold of a sample: its name without the suffix."""
    return without_suffix(name_of(sample.image, root))


def without_suffix(name: str) -> str:
    """Return a name that stays the same when an image is saved in another format."""
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name


def digest(*parts: bytes | np.ndarray) -> str:
    """Return the digest of bytes as hexadecimal digits."""
    state = hashlib.blake2b(digest_size=BYTES)
    for part in parts:
        state.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return state.hexdigest()


def file_digest(path: Path | str, *, ends_only: bool = False) -> str:
    """Return the digest of a file's bytes, or with `ends_only` of its size and both ends.

    It is `NOTHING` for a file that cannot be read, which the check of the data set reports.
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
    """The samples that a resumed run goes on with.

    Args:
        members: train, val and test: names as they are now.
        record: of them.
        lines: for the log.
    """

    members: dict[str, list[str]]
    record: SplitRecord
    lines: list[str]


def keep_splits(
    record: SplitRecord,
    now: Mapping[str, Members],
    *,
    where: object,
    by_hash: Collection[str] = (),
    changed: Collection[str] = (),
    accept: bool = False,
    log_new: bool = True,
) -> KeptSplits:
    """Return the samples of a resumed run, each in the split where the run has it.

    New samples are logged and left out, because the order of a run depends on their number.

    Args:
        record: stored by the run.
        now: train, val and test, each name -> content, as they would be for a new run.
        where: the data set, for messages.
        by_hash: splits that kanseg makes itself: if they come out differently now, that is not a
            change by the user, and the samples stay where the run has them.
        changed: splits that the settings of the resumed run replace; only samples that the run was
            trained on are refused in them.
        accept: take the data set as it is now, and log what has changed.
        log_new: whether new samples are logged.

    Raises:
        InputError: samples are gone, changed, or listed for another split; unless `accept`.
    """
    everything = _all_members(now)
    found, renamed = _current_names(record, everything)
    changes = _find_changes(record, now, found, by_hash=by_hash, changed=changed)
    if renamed:
        changes["renamed"] = [f"{old} is {new} now" for old, new in renamed.items()]
    fatal = [f"{what}: {len(names)} images: {few(names)}" for what, names in changes.items()]
    if fatal and not accept:
        lines = "\n".join(f"  {line}" for line in fatal)
        raise InputError(
            f"{where}: the data set is not the one that this run was begun with:\n{lines}\nput it"
            f" back, start a new run, or go on with the set as it is now by {ACCEPT}"
        )
    if accept:
        members = {role: list(some) for role, some in now.items()}
        lines = [f"warning: accepted by {ACCEPT}: {line}" for line in fatal]
        lines += _lines_of_accepted(record, now)
    else:
        members = {}
        for role, names in record.splits.items():
            if role not in changed:
                members[role] = [found[name] for name in names if found[name] is not None]
        for role in changed:
            if role in now:
                members[role] = list(now[role])
        lines = _lines_of_moved(record, now, found, by_hash)
        if log_new:
            known = {*found.values(), *(name for role in changed for name in now.get(role, ()))}
            lines += _lines_of_new([name for name in everything if name not in known])
    splits = {role: {name: everything[name] for name in names} for role, names in members.items()}
    earlier = record.earlier
    if accept:
        train = splits.get("train", {})
        earlier = tuple(pair for pair in record.trained if train.get(pair[0]) != pair[1])
    return KeptSplits(members, SplitRecord(splits, earlier, record.complete, record.sampled), lines)


def _current_names(
    record: SplitRecord, everything: Members
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return (name in the record -> name now, None if it is gone; those that were renamed).

    A sample is renamed if its name is gone and an unknown name has its image.
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
    now: Mapping[str, Members],
    found: Mapping[str, str | None],
    *,
    by_hash: Collection[str],
    changed: Collection[str],
) -> dict[str, list[str]]:
    """Return heading -> names of samples with that difference."""
    everything = _all_members(now)
    changes: dict[str, list[str]] = {}
    for role, members in record.splits.items():
        if role in changed:
            continue
        for name, content in members.items():
            current = found[name]
            if current is None:
                changes.setdefault(f"gone from {role}", []).append(name)
                continue
            if everything[current].image != content.image:
                changes.setdefault(f"another image under the name ({role})", []).append(name)
            elif everything[current].mask != content.mask:
                changes.setdefault(f"another mask or label ({role})", []).append(name)
            roles_now = [other for other in now if current in now[other]]
            moved_by_hash = role in by_hash and all(other in by_hash for other in roles_now)
            if role not in roles_now and not moved_by_hash:
                heading = f"moved from {role} to {' and '.join(roles_now)}"
                changes.setdefault(heading, []).append(name)
    for role in changed:
        leaks = _find_leaks(record, now.get(role, {}))
        if leaks:
            changes[f"trained on, and now in {role}"] = leaks
    return changes


def _find_leaks(record: SplitRecord, members: Members) -> list[str]:
    """Return the names of samples that the run was trained on."""
    trained = _TrainedOn(record, same_set=True)
    return [name for name, content in members.items() if trained.contains(name, content.image)]


def _lines_of_accepted(record: SplitRecord, now: Mapping[str, Members]) -> list[str]:
    """Return warnings for samples that were trained on and are measured from now on, and lines for
    new samples.
    """
    lines = []
    for role in ("val", "test"):
        leaks = _find_leaks(record, now.get(role, {}))
        if leaks:
            lines.append(
                f"warning: {len(leaks)} of {len(now[role])} images of {role} were trained on by"
                f" this run, so that scores on {role} are too good: {few(leaks)}"
            )
    names, images = record.samples, record.images
    for role, members in now.items():
        new = []
        for name, content in members.items():
            if name not in names and content.image not in images:
                new.append(name)
        if new:
            lines.append(f"{len(new)} new images in {role}: {few(new)}")
    return lines


def _lines_of_moved(
    record: SplitRecord,
    now: Mapping[str, Members],
    found: Mapping[str, str | None],
    by_hash: Collection[str],
) -> list[str]:
    """Return a line for samples that a new run would have in another split."""
    moved = []
    for role in by_hash:
        for name in record.splits.get(role, {}):
            current = found.get(name)
            if current is not None and current not in now.get(role, {}):
                moved.append(current)
    if not moved:
        return []
    return [
        f"{len(moved)} images would be in another split of a new run, and stay where this run has"
        f" them: {few(moved)}"
    ]


def _lines_of_new(names: list[str]) -> list[str]:
    if not names:
        return []
    return [
        f"{len(names)} images are new since this run was begun, and left out: {few(names)}; a new"
        f" run takes them, or {ACCEPT}"
    ]


class _TrainedOn:
    """What a run was trained on, by name and by content.

    Args:
        record: of the run.
        same_set: True for the data set of the training, so that names count too; in another data
            set only the content does.
    """

    def __init__(self, record: SplitRecord, *, same_set: bool):
        self.images = {content.image for _, content in record.trained} - {NOTHING}
        names = {name for name, _ in record.trained}
        self.all_stems = {without_suffix(name) for name in names}
        self.names = names if same_set else set()
        self.stems = self.all_stems if same_set else set()
        self.held_out = self._held_out(record) if same_set else {}

    @staticmethod
    def _held_out(record: SplitRecord) -> dict[str, str]:
        """Return name -> image of val and test, without samples that were in train before a change
        was accepted, possibly under another name.
        """
        earlier_stems = {without_suffix(name) for name, _ in record.earlier}
        earlier_images = {content.image for _, content in record.earlier}
        found = {}
        for role in ("val", "test"):
            for name, content in record.splits.get(role, {}).items():
                was_trained = without_suffix(name) in earlier_stems
                if not was_trained and content.image not in earlier_images:
                    found[name] = content.image
        return found

    def contains(self, name: str, image: str) -> bool:
        """Return True if a sample was trained on."""
        if self.held_out.get(name) == image:  # a blank image may be both in train and in test
            return name in self.names
        return image in self.images or without_suffix(name) in self.stems

    def has_stem(self, name: str) -> bool:
        """Return True if an image of that name, but for the suffix, was trained on."""
        return without_suffix(name) in self.all_stems


@dataclass(frozen=True)
class UntrainedSamples:
    """Samples to be measured with a trained network, without those it was trained on.

    Args:
        keep: samples that it was not trained on (or that are requested as its training split).
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
    roles: Collection[str],
    asked_train: Collection[Sample] = (),
) -> UntrainedSamples:
    """Leave out samples that a run was trained on from what is measured as val or test.

    Args:
        record: of the run; None if it has stored none.
        samples: to be measured.
        root: of their data set.
        same_set: True if it is the data set of the training, so that names count too; in another
            data set only the content does.
        roles: train, val and test, those that the measured splits have in the run.
        asked_train: samples that are requested as the training split; they are measured and logged.
    """
    if record is None:
        line = (
            "this checkpoint has stored no split (an older run): whether its training images are"
            " among these could not be verified"
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
    keep, left_out, asked = [], [], set(asked_train)
    trained = 0
    for sample in samples:
        was_trained = trained_on.contains(names[sample], contents[sample].image)
        trained += was_trained
        if was_trained and sample not in asked:
            left_out.append(sample)
        else:
            keep.append(sample)
    lines = _lines_of_trained(record, names, left_out, trained)
    if same_set:
        alike = []
    else:
        alike = [names[sample] for sample in keep if trained_on.has_stem(names[sample])]
    if alike:
        lines.append(
            f"warning: {len(alike)} of {len(samples)} images have names of images that this run was"
            " trained on, and other bytes: if they were saved again from these, the scores are too"
            f" good: {few(alike)}"
        )
    elif record.complete and not trained and samples:
        lines.append(f"none of these {len(samples)} images was trained on by this run")
    if same_set:
        kept = {names[sample]: contents[sample] for sample in keep}
        lines += _lines_of_differences(record, kept, set(names.values()), roles)
    return UntrainedSamples(keep, left_out, lines)


def _lines_of_trained(
    record: SplitRecord, names: Mapping[Sample, str], left_out: Sequence[Sample], trained: int
) -> list[str]:
    """Return lines for samples that the run was trained on.

    Args:
        record: of the run.
        names: of all samples.
        left_out: those that are not measured.
        trained: number of samples that the run was trained on.
    """
    lines = []
    if not record.complete:
        lines.append(
            "this run was begun by an older version, which stored no split: what it was trained on"
            " at first could not be verified"
        )
    if left_out:
        shown = few(names[sample] for sample in left_out)
        lines.append(
            f"warning: {len(left_out)} of {len(names)} images were trained on by this run, and are"
            f" left out of the scores: {shown}"
        )
    if trained > len(left_out):
        lines.append(f"{trained - len(left_out)} of these images were trained on by this run")
    return lines


def _lines_of_differences(
    record: SplitRecord, kept: Members, present: Collection[str], roles: Collection[str]
) -> list[str]:
    """Return lines for what is new, changed, gone, or was used to select the weights.

    Args:
        record: of the run.
        kept: the samples that are measured.
        present: names of these, and of those that are left out.
        roles: train, val and test, those that the measured splits have in the run.
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
    if "test" in roles and "val" not in roles:
        selecting = {*record.splits.get("val", {})} - {*record.splits.get("test", {})}
        used = [name for name in kept if name in selecting]
        if used:
            lines.append(
                f"warning: {len(used)} images selected the weights of this run (its split val):"
                f" {few(used)}"
            )
    expected = {name for role in roles for name in record.splits.get(role, {})}
    missing = sorted(expected.difference(present))
    if missing:
        lines.append(
            f"{len(missing)} images that this run has as {' + '.join(sorted(roles))} are not among"
            f" these any more: {few(missing)}"
        )
    return lines


def few(names: Iterable[str]) -> str:
    """Return `a, b, c, ... (12 in all)`."""
    names = list(names)
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN])}, ... ({len(names)} in all)"


def roles_of(data: Any, splits: Iterable[str]) -> set[str]:
    """Return those of train, val and test for which the settings name one of the splits."""
    splits = set(splits)
    return {role for role in SPLITS if splits & set(getattr(data, role))}
