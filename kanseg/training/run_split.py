"""The samples of a run: those of its settings, and when it goes on those that it was begun with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kanseg.checkpoint import CONFIG
from kanseg.data.split_record import Members, SplitRecord, hold, read_record
from kanseg.training.task import Tell


def split_of_run(
    config: Any,
    now: Mapping[str, Members],
    *,
    checkpoint: Path | None,
    accept: bool,
    tell: Tell,
    dealt: Collection[str] = (),
    name_new: bool = True,
    sampled: bool = False,
) -> tuple[dict[str, list[str]], SplitRecord]:
    """(names of train, val and test in their order, what a checkpoint stores of them).

    Args:
        config: the settings of the run.
        now: the samples that these settings ask for: role -> name -> content.
        checkpoint: one that is resumed; then its samples stay on their sides.
        accept: go on although samples or lists were changed.
        tell: for what was decided.
        dealt: roles whose samples were dealt by kanseg.
        name_new: whether samples that the run does not have are named.
        sampled: whether the digests are of the ends of files.

    Raises:
        InputError: samples of the run are gone, changed or on another side.
    """
    fresh = (
        {role: list(members) for role, members in now.items()},
        SplitRecord(now, sampled=sampled),
    )
    if checkpoint is None:
        return fresh
    record = read_record(checkpoint)
    if record is None:
        tell(
            f"data: warning: {checkpoint} has stored no split (it is of an older version): whether"
            " the samples are those that it was trained on could not be verified, and a set without"
            " split files is dealt differently now"
        )
        return fresh[0], SplitRecord(now, complete=False, sampled=sampled)
    before = type(config).from_yaml((checkpoint / CONFIG).read_text(encoding="utf-8")).data
    free = [] if before.test == config.data.test else ["test"]
    held = hold(
        record,
        now,
        where=config.data.root,
        dealt=dealt,
        free=free,
        accept=accept,
        name_new=name_new,
    )
    for line in held.lines:
        tell(f"data: {line}")
    return held.members, held.record
