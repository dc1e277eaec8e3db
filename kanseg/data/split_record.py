"""What a run trained on, selected its weights by, and was tested on: by name and by content, stored
with the run, so that nothing changes sides behind its back.
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

from kanseg.data.io.rasterize import Annotation
from kanseg.data.sample import Mask, Sample
from kanseg.data.splits import SPLITS, nfc
from kanseg.utils.errors import InputError

SPLIT = "split.json"  # in a run folder, and in each of its checkpoints
BYTES = 8  # of a digest: among 200 000 samples two are equal by chance once in 10^9 sets
DIGITS = 2 * BYTES
NOTHING = "0" * DIGITS  # of a sample without a mask
ENDS = 2**16  # bytes that are read at either end of a file where not all of it is
SHOWN = 5  # names in a line; the rest is counted
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
        complete: False for a run that was begun without a record: what it trained on before is
            not known.
        sampled: whether digests are of the size and the ends of files, not of all their bytes.
    """

    splits: Mapping[str, Members]
    earlier: tuple[tuple[str, Content], ...] = ()
    complete: bool = True
    sampled: bool = False

    @property
    def trained(self) -> list[tuple[str, Content]]:
        """All that was ever trained on."""
        return [*self.earlier, *self.splits.get("train", {}).items()]

    @property
    def trained_images(self) -> set[str]:
        """The digests of all images that were ever trained on."""
        return {content.image for _, content in self.trained} - {NOTHING}

    @property
    def samples(self) -> dict[str, Content]:
        """All samples of train, val and test."""
        return {name: content for some in self.splits.values() for name, content in some.items()}

    def to_json(self) -> str:
        """As `from_json` reads it; about 50 bytes a sample."""
        content = {
            "kanseg": 1,
            "complete": self.complete,
            "sampled": self.sampled,
            "splits": {role: _packed(members.items()) for role, members in self.splits.items()},
            "earlier": _packed(self.earlier),
        }
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: object) -> SplitRecord:
        """The record in a text.

        Raises:
            InputError: it is none; `where` names its file.
        """
        try:
            content = json.loads(text)
            return cls(
                {role: dict(_unpacked(members)) for role, members in content["splits"].items()},
                tuple(_unpacked(content["earlier"])),
                bool(content["complete"]),
                bool(content["sampled"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{where}: damaged, not the record of a split; take the file from the checkpoint of"
                " the run, or remove it (then nothing can be verified)"
            ) from None


def _packed(members: Iterable[tuple[str, Content]]) -> dict[str, Any]:
    """One text for all digests of a kind: 200 000 samples are 10 MB."""
    members = list(members)
    return {
        "names": [name for name, _ in members],
        "images": "".join(content.image for _, content in members),
        "masks": "".join(content.mask for _, content in members),
    }


def _unpacked(stored: Mapping[str, Any]) -> list[tuple[str, Content]]:
    names, images, masks = stored["names"], stored["images"], stored["masks"]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("names must be texts")
    if not len(images) == len(masks) == DIGITS * len(names):
        raise ValueError("as many digests as names are needed")
    return [
        (name, Content(images[start : start + DIGITS], masks[start : start + DIGITS]))
        for name, start in zip(names, range(0, len(images), DIGITS), strict=True)
    ]


def read_record(folder: Path) -> SplitRecord | None:
    """The record in a checkpoint or run folder; None where there is none, as in older runs.

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
    """The path of an image below the root, with forward slashes and composed letters: the same on
    every system, wherever the set lies.
    """
    path = Path(path)
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return nfc(inside.as_posix())


def unit_of(sample: Sample, root: Path) -> str:
    """What decides the fold of a sample: its name without the suffix."""
    return without_suffix(name_of(sample.image, root))


def without_suffix(name: str) -> str:
    """A name by which an image is known again after it was saved in another format."""
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name


def digest(*parts: bytes | np.ndarray) -> str:
    """Hexadecimal digits of the bytes."""
    state = hashlib.blake2b(digest_size=BYTES)
    for part in parts:
        state.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return state.hexdigest()


def file_digest(path: Path | str, *, ends_only: bool = False) -> str:
    """The digest of a file's bytes; with `ends_only` of its size and both ends. `NOTHING` for a
    file that cannot be read, which the check of the data set names.
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
    """The digest of a mask: of its files, or of the shapes that are drawn."""
    if mask is None:
        return NOTHING
    if isinstance(mask, Annotation):
        parts = [repr(mask.size).encode()]
        for region in mask.regions:
            parts.append(repr((region.label, region.area, region.crowd)).encode())
            parts += _shape_bytes(region.shape)
        return digest(*parts)
    if isinstance(mask, tuple):
        return digest(*(b"-" if one is None else of_file(one).encode() for one in mask))
    return of_file(mask)


def _shape_bytes(shape: Any) -> list[bytes]:
    if isinstance(shape, Mapping):
        return [json.dumps(shape, sort_keys=True, default=str).encode()]
    return [np.asarray(polygon, dtype=np.float64).tobytes() for polygon in shape]


def sample_contents(
    samples: Iterable[Sample], root: Path, of_file: Callable[[Path], str] = file_digest
) -> dict[Sample, Content]:
    """The content of each sample; files are read in threads.

    Args:
        samples: images with their masks.
        root: of the data set.
        of_file: the digest of a file, such as one that keeps what it knows.
    """
    samples = list(samples)

    def content(sample: Sample) -> Content:
        return Content(of_file(sample.image), mask_digest(sample.mask, of_file))

    with ThreadPoolExecutor() as pool:  # reading and hashing release the interpreter
        return dict(zip(samples, pool.map(content, samples), strict=True))


@dataclass(frozen=True)
class Held:
    """The samples that a run goes on with.

    Args:
        members: train, val and test: names as they are now.
        record: of them.
        lines: what there is to say.
    """

    members: dict[str, list[str]]
    record: SplitRecord
    lines: list[str]


def hold(
    record: SplitRecord,
    now: Mapping[str, Members],
    *,
    where: object,
    dealt: Collection[str] = (),
    free: Collection[str] = (),
    accept: bool = False,
    name_new: bool = True,
) -> Held:
    """The data set of now with every sample on the side where the run has it.

    Samples that are new are named and left out, as the order of a run depends on their number.

    Args:
        record: what the run has stored.
        now: train, val and test, each name -> content, as they would be for a new run.
        where: the data set, for messages.
        dealt: roles that kanseg deals itself: another deal is no change of the user's, and the
            side of the run stays.
        free: roles that were chosen anew, of which only what was trained on is refused.
        accept: take the set as it is now, and say what has changed.
        name_new: whether new samples are named.

    Raises:
        InputError: samples are gone, changed, or listed for another role; unless `accept`.
    """
    everything = {name: content for members in now.values() for name, content in members.items()}
    found, renamed = _current_names(record, everything)
    changes = _changes(record, now, found, dealt=dealt, free=free)
    if renamed:
        changes["renamed"] = [f"{old} is {new} now" for old, new in renamed.items()]
    fatal = [line for line in _told(changes) if line]
    if fatal and not accept:
        lines = "\n".join(f"  {line}" for line in fatal)
        raise InputError(
            f"{where}: the data set is not the one that this run was begun with:\n{lines}\nput it"
            f" back, start a new run, or go on with the set as it is now by {ACCEPT}"
        )
    lines = [f"warning: accepted by {ACCEPT}: {line}" for line in fatal]
    if accept:
        members = {role: list(some) for role, some in now.items()}
        lines += _accepted_lines(record, now)
    else:
        members, lines = _kept(record, now, found, free=free), lines
        dealt_anew = [
            found[name]
            for role in dealt
            for name in record.splits.get(role, {})
            if found.get(name) is not None and found[name] not in now.get(role, {})
        ]
        if dealt_anew:
            lines.append(
                f"{len(dealt_anew)} images would be dealt to another split now, and stay where this"
                f" run has them: {few(dealt_anew)}"
            )
        known = {*found.values(), *(name for role in free for name in now.get(role, ()))}
        new = [name for name in everything if name not in known]
        if new and name_new:
            lines.append(
                f"{len(new)} images are new since this run was begun, and left out: {few(new)}; a"
                f" new run takes them, or {ACCEPT}"
            )
    splits = {role: {name: everything[name] for name in names} for role, names in members.items()}
    earlier = record.earlier
    if accept:
        trained = splits.get("train", {})
        earlier = tuple(
            (name, content) for name, content in record.trained if trained.get(name) != content
        )
    return Held(members, SplitRecord(splits, earlier, record.complete, record.sampled), lines)


def _current_names(
    record: SplitRecord, everything: Members
) -> tuple[dict[str, str | None], dict[str, str]]:
    """(name in the record -> name now, None for what is gone; those that have another name)."""
    recorded = record.samples
    strangers: dict[str, list[str]] = {}
    for name, content in everything.items():
        if name not in recorded:
            strangers.setdefault(content.image, []).append(name)
    found: dict[str, str | None] = {}
    renamed = {}
    for name, content in recorded.items():
        found[name] = name if name in everything else None
        if found[name] is None and strangers.get(content.image):
            found[name] = renamed[name] = strangers[content.image].pop(0)
    return found, renamed


def _changes(
    record: SplitRecord,
    now: Mapping[str, Members],
    found: Mapping[str, str | None],
    *,
    dealt: Collection[str],
    free: Collection[str],
) -> dict[str, list[str]]:
    """What is different: a heading -> names."""
    everything = {name: content for members in now.values() for name, content in members.items()}
    changes: dict[str, list[str]] = {}
    for role, members in record.splits.items():
        if role in free:
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
            sides = [other for other in now if current in now[other]]
            both_dealt = role in dealt and all(other in dealt for other in sides)
            if role not in sides and not both_dealt:
                changes.setdefault(f"moved from {role} to {' and '.join(sides)}", []).append(name)
    for role in free:
        leaks = _leaks(record, now.get(role, {}))
        if leaks:
            changes[f"trained on, and now in {role}"] = leaks
    return changes


def _leaks(record: SplitRecord, members: Members) -> list[str]:
    """The names that the run has trained on, by name or by content."""
    known = _Known(record, same_set=True)
    return [name for name, content in members.items() if known.was_trained(name, content.image)]


def _told(changes: Mapping[str, list[str]]) -> list[str]:
    return [f"{what}: {len(names)} images: {few(names)}" for what, names in changes.items()]


def _accepted_lines(record: SplitRecord, now: Mapping[str, Members]) -> list[str]:
    """Warnings for what was trained on and is measured from now on, and a line for what is new."""
    lines = []
    for role in ("val", "test"):
        leaks = _leaks(record, now.get(role, {}))
        if leaks:
            lines.append(
                f"warning: {len(leaks)} of {len(now[role])} images of {role} were trained on by"
                f" this run, so that scores on {role} are too good: {few(leaks)}"
            )
    known, images = record.samples, {content.image for content in record.samples.values()}
    for role, members in now.items():
        new = [
            name
            for name, content in members.items()
            if name not in known and content.image not in images
        ]
        if new:
            lines.append(f"{len(new)} new images in {role}: {few(new)}")
    return lines


def _kept(
    record: SplitRecord,
    now: Mapping[str, Members],
    found: Mapping[str, str | None],
    *,
    free: Collection[str],
) -> dict[str, list[str]]:
    """The members of the record under the names of now, in its order."""
    members = {
        role: [found[name] for name in names if found[name] is not None]
        for role, names in record.splits.items()
        if role not in free
    }
    return members | {role: list(now[role]) for role in free if role in now}


@dataclass(frozen=True)
class Judged:
    """Samples to be measured with a trained network.

    Args:
        keep: those that it was not trained on (or that were asked for as its training set).
        left_out: those that it was trained on.
        lines: what there is to say.
    """

    keep: list[Sample]
    left_out: list[Sample]
    lines: list[str]


def judge(
    record: SplitRecord | None,
    samples: Sequence[Sample],
    *,
    root: Path,
    same_set: bool,
    roles: Collection[str],
    asked_train: Collection[Sample] = (),
) -> Judged:
    """Samples that a run has trained on are left out of what is measured as val or test.

    Args:
        record: of the run; None where it has stored none.
        samples: to be measured.
        root: of the data set that they are of.
        same_set: whether that is the set of the training, so that names tell too; of another set
            only the content does.
        roles: those of the splits that are asked for.
        asked_train: samples that are asked for as the training split; they are measured, and told.
    """
    if record is None:
        line = (
            "this checkpoint has stored no split (an older run): whether its training images are"
            " among these could not be verified"
        )
        return Judged(list(samples), [], [line])
    contents = sample_contents(samples, root, lambda path: _digest_of(path, record))
    names = {sample: name_of(sample.image, root) for sample in samples}
    stored = record.samples
    same_set = same_set or any(
        names[sample] in stored and stored[names[sample]].image == content.image
        for sample, content in contents.items()
    )
    known = _Known(record, same_set)
    trained = [
        sample for sample in samples if known.was_trained(names[sample], contents[sample].image)
    ]
    wanted = set(asked_train)
    left_out = [sample for sample in trained if sample not in wanted]
    gone = set(left_out)
    keep = [sample for sample in samples if sample not in gone]
    lines = []
    if not record.complete:
        lines.append(
            "this run was begun by an older version, which stored no split: what it trained on at"
            " first could not be verified"
        )
    if left_out:
        shown = few(names[sample] for sample in left_out)
        lines.append(
            f"warning: {len(left_out)} of {len(samples)} images were trained on by this run, and"
            f" are left out of the scores: {shown}"
        )
    if len(trained) > len(left_out):
        lines.append(f"{len(trained) - len(left_out)} of these images were trained on by this run")
    alike = [] if same_set else known.by_stem(names[sample] for sample in keep)
    if alike:
        lines.append(
            f"warning: {len(alike)} of {len(samples)} images have names of images that this run was"
            " trained on, and other bytes: were they saved anew from these, the scores are too"
            f" good: {few(alike)}"
        )
    elif record.complete and not trained and samples:
        lines.append(f"none of these {len(samples)} images was trained on by this run")
    lines += _other_lines(record, keep, names, contents, same_set=same_set, roles=roles)
    return Judged(keep, left_out, lines)


def _digest_of(path: Path, record: SplitRecord) -> str:
    return file_digest(path, ends_only=record.sampled)


class _Known:
    """What a run was trained on, by name and by content."""

    def __init__(self, record: SplitRecord, same_set: bool):
        self.images = record.trained_images
        names = {name for name, _ in record.trained}
        self.all_stems = {without_suffix(name) for name in names}
        self.names, self.stems = (names, self.all_stems) if same_set else (set(), set())
        held_out = {**record.splits.get("val", {}), **record.splits.get("test", {})}
        # Of an accepted change one may be held out that was in train before under another name.
        earlier = {without_suffix(name) for name, _ in record.earlier}
        images = {content.image for _, content in record.earlier}
        self.held_out = {
            name: content.image
            for name, content in held_out.items()
            if same_set and without_suffix(name) not in earlier and content.image not in images
        }

    def was_trained(self, name: str, image: str) -> bool:
        if self.held_out.get(name) == image:  # a blank image may be in train and in test alike
            return name in self.names
        return image in self.images or without_suffix(name) in self.stems

    def by_stem(self, names: Iterable[str]) -> list[str]:
        """The names that are, but for the suffix, those of images that were trained on."""
        return [name for name in names if without_suffix(name) in self.all_stems]


def _other_lines(
    record: SplitRecord,
    keep: Sequence[Sample],
    names: Mapping[Sample, str],
    contents: Mapping[Sample, Content],
    *,
    same_set: bool,
    roles: Collection[str],
) -> list[str]:
    """Lines for what is new, changed, gone, or was used to select the weights."""
    if not same_set:
        return []
    lines, stored = [], record.samples
    images = {content.image for content in stored.values()}
    new = [
        names[sample]
        for sample in keep
        if names[sample] not in stored and contents[sample].image not in images
    ]
    if new:
        lines.append(f"{len(new)} images are new since the training: {few(new)}")
    changed = [
        names[sample]
        for sample in keep
        if names[sample] in stored and stored[names[sample]] != contents[sample]
    ]
    if changed:
        lines.append(
            f"{len(changed)} images or masks have changed since the training: {few(changed)}"
        )
    if "val" not in roles:
        selecting = {*record.splits.get("val", {})} - {*record.splits.get("test", {})}
        used = [names[sample] for sample in keep if names[sample] in selecting]
        if used and "test" in roles:
            lines.append(
                f"warning: {len(used)} images selected the weights of this run (its split val):"
                f" {few(used)}"
            )
    expected = {name for role in roles for name in record.splits.get(role, {})}
    missing = sorted(expected - set(names.values()))
    if missing:
        lines.append(
            f"{len(missing)} images that this run has as {' + '.join(sorted(roles))} are not among"
            f" these any more: {few(missing)}"
        )
    return lines


def few(names: Iterable[str]) -> str:
    """`a, b, c, ... (12 in all)`."""
    names = list(names)
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN])}, ... ({len(names)} in all)"


def roles_of(data: Any, splits: Iterable[str]) -> set[str]:
    """The roles that the settings of a run give to some splits."""
    splits = set(splits)
    return {role for role in SPLITS if splits & set(getattr(data, role))}
