"""The splits of a run; a resumed run keeps the splits that it was started with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanseg.data.label_spec import LabelSpec, compare_classes
from kanseg.data.names import shorten
from kanseg.data.splits.changes import keep_splits
from kanseg.data.splits.record import Members, SplitRecord, read_record
from kanseg.inference.checkpoint import CONFIG, DESCRIPTION
from kanseg.inference.description import mask_meaning
from kanseg.training.task import Log
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import read_json


def split_of_run(
    config: Any,
    current: Mapping[str, Members],
    *,
    checkpoint: Path | None,
    accept: bool,
    log: Log,
    seeded: Collection[str] = (),
    log_new: bool = True,
    sampled: bool = False,
) -> tuple[dict[str, list[str]], SplitRecord]:
    """Return the samples of train, val and test.

    Args:
        config: the settings of the run.
        current: the samples by these settings: split -> name -> content.
        checkpoint: the checkpoint that is resumed; its samples keep their splits.
        accept: continue although samples or split files have changed.
        log: receives a line for every decision.
        seeded: splits that kanseg made itself, from a seed.
        log_new: log the names of samples that the run does not have.
        sampled: the digests cover only the size and both ends of a file.

    Returns:
        The names of the samples of each split, in their order, and the record for the checkpoints.

    Raises:
        InputError: samples of the run are missing, changed or in another split.
    """
    names = {split: list(members) for split, members in current.items()}
    if checkpoint is None:
        return names, SplitRecord(current, sampled=sampled)
    record = read_record(checkpoint)
    if record is None:
        log(
            f"data: warning: {checkpoint} has no record of its splits (it is of an older version),"
            " so kanseg cannot verify that the training samples are the same; a data set without"
            " split files is split differently now"
        )
        return names, SplitRecord(current, complete=False, sampled=sampled)
    before = type(config).from_yaml((checkpoint / CONFIG).read_text(encoding="utf-8")).data
    changed = []
    if before.test != config.data.test:
        changed.append("test")
    kept = keep_splits(
        record,
        current,
        where=config.data.root,
        seeded=seeded,
        changed=changed,
        accept=accept,
        log_new=log_new,
    )
    for line in kept.lines:
        log(translate("data: {line}", line=line))
    return kept.members, kept.record


def compare_masks(checkpoint: Path, label_spec: LabelSpec, *, where: object) -> None:
    """Check that mask values mean the same as when the resumed run was started.

    Raises:
        InputError: the same values or colors would be other classes now.
    """
    before, now = read_json(checkpoint / DESCRIPTION).get("masks"), mask_meaning(label_spec)
    if before is None:  # a run of an older version
        return
    for key, value in now.items():
        if before.get(key) != value:
            raise InputError(
                f"{where}: the masks of this run were read with {key} {before.get(key)}, which is"
                f" {value} now, so the same masks would mean something else; restore it, or start"
                " a new run"
            )


def compare_labels(
    checkpoint: Path, *, task: str, classes: Sequence[str], where: object, log: Log
) -> None:
    """Compare the classes with those of the checkpoint that is resumed, and log renamed ones.

    Raises:
        InputError: another task, number or order of classes.
    """
    trained = read_json(checkpoint / DESCRIPTION)["labels"]
    if trained["task"] != task or len(trained["classes"]) != len(classes):
        raise InputError(
            f"{where}: the run was started with a {trained['task']} task of"
            f" {len(trained['classes'])} classes ({shorten(trained['classes'])}), and this is a"
            f" {task} task of {len(classes)} ({shorten(classes)}); restore the classes, or start a"
            " new run"
        )
    line = compare_classes(trained["classes"], classes, where=where)
    if line is not None:
        log(translate("data: {line}", line=line))
