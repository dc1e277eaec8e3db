"""Everything that the check of a data set found, for people and for programs."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanseg.data.checks.inspector import Inspector, Label
from kanseg.data.checks.kinds import KINDS, Issue
from kanseg.data.checks.statistics import Statistics
from kanseg.data.formats.folder import Folder
from kanseg.data.label_spec import LabelSpec
from kanseg.data.sample import Sample
from kanseg.utils.tables import markdown_table
from kanseg.utils.text import printable

SCHEMA = 1


@dataclass
class Report:
    """What a look at a data set found.

    Args:
        root: of the data set.
        folder: the data set; None where it cannot be opened.
        info: what the mask values mean; None where that cannot be told.
        inspector: the facts about its files.
        issues: all faults.
        splits: train, val, test (and "other": images in none of them) -> all samples, faulty ones
            too.
        names: role -> the splits that were chosen for it.
        labels: of the samples without errors.
        statistics: of each of the splits.
        notes: what was decided without being told, such as a seeded split.
        seconds: that the check took.
    """

    root: Path
    folder: Folder | None
    info: LabelSpec | None
    inspector: Inspector
    issues: list[Issue] = field(default_factory=list)
    splits: dict[str, list[Sample]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[Sample, Label] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def errors(self) -> list[Issue]:
        """Faults that stop a training."""
        return [issue for issue in self.issues if issue.kind.severity == "error"]

    @property
    def warnings(self) -> list[Issue]:
        """Faults that do not."""
        return [issue for issue in self.issues if issue.kind.severity == "warning"]

    @property
    def bad(self) -> set[Sample]:
        """Samples that `skip_bad` leaves out."""
        return {sample for issue in self.errors for sample in issue.samples}

    def line(self, issue: Issue) -> str:
        """`FILE: reason`, the file as a path that can be opened."""
        path = self.root if issue.file == "." else self.root / issue.file
        return printable(f"{path}: {issue.reason}", line=True)

    def by_kind(self, issues: list[Issue]) -> dict[str, list[Issue]]:
        """Code -> faults, in the order of `KINDS`."""
        found = defaultdict(list)
        for issue in sorted(issues, key=lambda issue: list(KINDS).index(issue.code)):
            found[issue.code].append(issue)
        return dict(found)

    def text(self, *, warnings: int = 10) -> str:
        """The whole report for a terminal: every error, and at most so many warnings of a kind."""
        parts = [self._overview(), *(printable(f"note: {note}", line=True) for note in self.notes)]
        for title, issues, limit in (
            ("ERRORS", self.errors, None),
            ("warnings", self.warnings, warnings),
        ):
            if issues:
                parts.append(f"\n{title} ({len(issues)})")
            for code, some in self.by_kind(issues).items():
                parts.append(f"  {code}: {KINDS[code].title} ({len(some)})")
                parts += [
                    printable(f"    {issue.file}: {issue.reason}", line=True)
                    for issue in some[:limit]
                ]
                parts += (
                    [f"    ... and {len(some) - limit} more (--warnings 0 shows all)"]
                    if limit and len(some) > limit
                    else []
                )
        parts.append(f"\n{self.verdict()}")
        return "\n".join(parts)

    def verdict(self) -> str:
        """One line: how many faults, files and seconds."""
        faults = f"{len(self.errors)} errors, {len(self.warnings)} warnings"
        files = (
            f"{self.inspector.decoded} files decoded, {self.inspector.from_cache} unchanged and"
            " taken from the cache"
        )
        return f"{self.root}: {faults}; {files}; {self.seconds:.1f} s"

    def _overview(self) -> str:
        """Images, sizes and classes of the splits as a table."""
        filled = {split: stats for split, stats in self.statistics.items() if stats.images}
        rows = [["images", *(str(stats.images) for stats in filled.values())]]
        rows.append(["sizes", *(_few_sizes(stats.sizes) for stats in filled.values())])
        rows.append(["kinds", *(", ".join(stats.kinds) for stats in filled.values())])
        for title in ("mean", "std"):
            rows.append(
                [
                    title,
                    *(
                        " ".join(f"{value:.3f}" for value in getattr(stats, title))
                        for stats in filled.values()
                    ),
                ]
            )
        if self.info is not None:
            for index, name in enumerate(self.info.classes):
                rows.append(
                    [
                        name,
                        *(
                            f"{100 * stats.shares[index]:.2f} %, in {stats.with_class[index]}"
                            for stats in filled.values()
                        ),
                    ]
                )
            rows.append(["ignored pixels", *(str(stats.ignored) for stats in filled.values())])
        return (
            markdown_table([str(self.root.name), *filled], rows)
            if filled
            else f"{self.root}: no image could be read"
        )

    def to_json(self) -> dict[str, Any]:
        """For programs; the schema is that of `tools/check_data.py --help`."""
        info = self.info
        issues = [
            {
                "code": i.code,
                "severity": i.kind.severity,
                "file": i.file,
                "reason": i.reason,
                "samples": [s.name for s in i.samples],
                "details": i.details,
            }
            for i in self.issues
        ]
        return {
            "schema": SCHEMA,
            "root": str(self.root),
            "ok": not self.errors,
            "counts": {
                "errors": len(self.errors),
                "warnings": len(self.warnings),
                "codes": dict(Counter(issue.code for issue in self.issues)),
            },
            "issues": issues,
            "task": info.task if info else None,
            "classes": list(info.classes) if info else None,
            "mask_values": (
                {str(k): v for k, v in info.mask_values.items()}
                if info and info.mask_values
                else None
            ),
            "ignore_index": info.ignore_index if info else None,
            "notes": list(self.notes),
            "splits": {
                split: {"names": self.names.get(split, []), **stats.to_json(info)}
                for split, stats in self.statistics.items()
            },
            "files": {"decoded": self.inspector.decoded, "from_cache": self.inspector.from_cache},
            "seconds": round(self.seconds, 2),
        }


def _few_sizes(sizes: Counter) -> str:
    shown = ", ".join(f"{width}x{height}" for (height, width), _ in sizes.most_common(2))
    return shown + (f" +{len(sizes) - 2}" if len(sizes) > 2 else "")
