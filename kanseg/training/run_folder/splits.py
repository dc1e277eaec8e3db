"""The splits of a run: those of its settings; a resumed run keeps those that it was begun with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanseg.data.label_spec import LabelSpec, compare_classes
from kanseg.data.split_record import Members, SplitRecord, keep_splits, read_record
from kanseg.inference.checkpoint import CONFIG, DESCRIPTION, mask_meaning
from kanseg.training.task import Log
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_json


def split_of_run(
    config: Any,
    now: Mapping[str, Members],
    *,
    checkpoint: Path | None,
    accept: bool,
    log: Log,
    dealt: Collection[str] = (),
    name_new: bool = True,
    sampled: bool = False,
) -> tuple[dict[str, list[str]], SplitRecord]:
    """Decide which samples are trained, validated and tested on.

    Args:
        config: the settings of the run.
        now: the samples of these settings: split -> name -> content.
        checkpoint: one that is resumed; its samples stay in their splits.
        accept: go on although samples or lists were changed.
        log: for what was decided.
        dealt: splits whose samples were dealt by kanseg.
        name_new: log the names of samples that the run does not have.
        sampled: the digests are of the ends of files only.

    Returns:
        The names of the samples of each split, in their order, and the record that is stored in
        checkpoints.

    Raises:
        InputError: samples of the run are gone, changed or in another split.
    """
    names = {split: list(members) for split, members in now.items()}
    if checkpoint is None:
        return names, SplitRecord(now, sampled=sampled)
    record = read_record(checkpoint)
    if record is None:
        log(
            f"data: warning: {checkpoint} has stored no split (it is of an older version): whether"
            " the samples are those that it was trained on could not be verified, and a set without"
            " split files is dealt differently now"
        )
        return names, SplitRecord(now, complete=False, sampled=sampled)
    before = type(config).from_yaml((checkpoint / CONFIG).read_text(encoding="utf-8")).data
    free = [] if before.test == config.data.test else ["test"]
    held = keep_splits(
        record,
        now,
        where=config.data.root,
        by_hash=dealt,
        changed=free,
        accept=accept,
        log_new=name_new,
    )
    for line in held.lines:
        log(f"data: {line}")
    return held.members, held.record


def compare_masks(checkpoint: Path, label_spec: LabelSpec, *, where: object) -> None:
    """Check that mask values mean the same as when the resumed run was begun.

    Raises:
        InputError: the same values or colors would be other classes now.
    """
    before, now = read_json(checkpoint / DESCRIPTION).get("masks"), mask_meaning(label_spec)
    if before is None:  # a run of an older version
        return
    for key, value in now.items():
        if before.get(key) != value:
            raise InputError(
                f"{where}: the masks of this run were read with {key} {before.get(key)}, and now it"
                f" is {value}, so that the same masks mean something else; put it back, or start"
                " a new run"
            )


def compare_labels(
    checkpoint: Path, *, task: str, classes: Sequence[str], where: object, log: Log
) -> None:
    """Log which classes were renamed since a checkpoint that is resumed.

    Raises:
        InputError: they are in another order, or more, or fewer, or of another task.
    """
    trained = read_json(checkpoint / DESCRIPTION)["labels"]
    if trained["task"] != task or len(trained["classes"]) != len(classes):
        raise InputError(
            f"{where}: the run was begun with a {trained['task']} task of"
            f" {len(trained['classes'])} classes ({', '.join(trained['classes'][:8])}), and now"
            f" there is a {task} task of {len(classes)} ({', '.join(classes[:8])}); put it back, or"
            " start a new run"
        )
    line = compare_classes(trained["classes"], classes, where=where)
    if line is not None:
        log(f"data: {line}")
