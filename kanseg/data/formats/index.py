"""The index of a data set: its samples by split, and the problems of its layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kanseg.data.formats.issues import Issue
from kanseg.data.label_spec import LabelSpec
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest


@dataclass(frozen=True)
class DatasetIndex:
    """The samples of a data set by split, the meaning of its masks, and its problems.

    Training raises the first error among the problems (`raise_errors`, `samples`); the check of a
    data set reports all of them.

    Args:
        root: folder of the data set.
        label_spec: meaning of the mask values; None if it is unknown, for the reason in `problems`.
        splits: name of a split -> its samples. A split file with problems has the samples that it
            names correctly.
        unlisted: samples that are in no split.
        problems: of the layout as a whole.
        split_problems: name of a split -> the problems of its file, which count only if the split
            is used.
        notes: lines for the log about automatic decisions.
        groups: name of a sample -> group, from groups.csv; None without that file.
        split_by_hash: True if the splits were made by `seeded_split`.
    """

    root: Path
    label_spec: LabelSpec | None = None
    splits: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    unlisted: tuple[Sample, ...] = ()
    problems: tuple[Issue, ...] = ()
    split_problems: Mapping[str, tuple[Issue, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    groups: Mapping[str, str] | None = None
    split_by_hash: bool = False

    def samples(self, names: str | Sequence[str] | None) -> list[Sample]:
        """Return the samples of one split, or of several without duplicates; [] for None.

        Raises:
            InputError: there is no such split, or its file has a problem.
        """
        if isinstance(names, str):
            names = [names]
        found: dict[Sample, None] = {}
        for name in names or ():
            for problem in self.split_problems.get(name, ()):
                raise self.error(problem)
            if name not in self.splits:
                raise InputError(
                    "there is no split {name!r}{hint} (found: {found})",
                    name=name,
                    hint=nearest(name, self.splits),
                    found=", ".join(self.splits) or "none",
                    where=self.root,
                )
            found |= dict.fromkeys(self.splits[name])
        return list(found)

    def raise_errors(self) -> DatasetIndex:
        """Raise InputError for the first problem that stops a training; otherwise return self."""
        for problem in self.problems:
            if problem.kind.stops:
                raise self.error(problem)
        return self

    def error(self, problem: Issue) -> InputError:
        """Return a problem as an error with the full path of the file."""
        return InputError(problem.reason, where=self.root / problem.file)

    def with_problems(self, problems: Iterable[Issue]) -> DatasetIndex:
        """Return a copy with more problems."""
        return replace(self, problems=(*self.problems, *problems))


def problem_of(error: InputError, root: Path, code: str = "layout") -> Issue:
    """Convert an error to a problem of the file that it names, or of the root."""
    if error.where is not None and Path(str(error.where)).is_relative_to(root):
        return Issue(code, Path(str(error.where)).relative_to(root).as_posix(), error.reason)
    return Issue(code, ".", str(error))
