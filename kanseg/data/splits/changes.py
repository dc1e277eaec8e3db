"""Compare the samples of a resumed run with the data set as it is now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kanseg.data.names import few
from kanseg.data.splits.record import Members, SplitRecord, all_members
from kanseg.data.splits.trained_samples import TrainedOn
from kanseg.utils.errors import InputError

ACCEPT = "--accept_changes"


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
    everything = all_members(current)
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
            "the data set has changed since this run was started:\n  {listing}\nrestore it,"
            " start a new run, or continue with the changed data set with {accept}",
            listing=listing,
            accept=ACCEPT,
            where=where,
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
    everything = all_members(current)
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
    trained = TrainedOn(record, same_set=True)
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
