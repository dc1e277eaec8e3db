"""What the check of a data set found, as text and as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanseg.data.checks.prober import LabelFacts, Prober
from kanseg.data.checks.statistics import Statistics
from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.issues import KINDS, Issue
from kanseg.data.label_spec import LabelSpec
from kanseg.data.sample import Sample
from kanseg.utils.tables import markdown_table
from kanseg.utils.text import printable

SCHEMA = 1


@dataclass
class Report:
    """What the check of a data set found.

    Args:
        index: the samples and the label spec of the data set.
        prober: the facts about its files.
        issues: all problems.
        splits: train, val, test (and "other": images in none of them) -> all samples, also those
            with problems.
        names: role (train, val, test) -> the splits that the settings name for it.
        labels: of the samples without errors.
        statistics: of each of the splits.
        notes: what was decided without being asked, such as a seeded split.
        seconds: duration of the check.
    """

    index: DatasetIndex
    prober: Prober
    issues: list[Issue] = field(default_factory=list)
    splits: dict[str, list[Sample]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[Sample, LabelFacts] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def root(self) -> Path:
        """Folder of the data set."""
        return self.index.root

    @property
    def label_spec(self) -> LabelSpec | None:
        """Meaning of the mask values; None if it is not known."""
        return self.index.label_spec

    @property
    def errors(self) -> list[Issue]:
        """Problems that stop a training."""
        return [issue for issue in self.issues if issue.is_error]

    @property
    def warnings(self) -> list[Issue]:
        """Problems that do not stop a training."""
        return [issue for issue in self.issues if not issue.is_error]

    @property
    def bad(self) -> set[Sample]:
        """Samples that `skip_bad` leaves out."""
        return {sample for issue in self.errors for sample in issue.samples}

    def all_samples(self) -> list[Sample]:
        """Return the samples of all splits, each once."""
        found: dict[Sample, None] = {}
        for samples in self.splits.values():
            found |= dict.fromkeys(samples)
        return list(found)

    def line(self, issue: Issue) -> str:
        """Return `FILE: reason`, with the path of the file as it can be opened."""
        return printable(self.index.message(issue), line=True)

    def by_kind(self, issues: Iterable[Issue]) -> dict[str, list[Issue]]:
        """Return code -> issues, in the order of `KINDS`."""
        found = defaultdict(list)
        for issue in issues:
            found[issue.code].append(issue)
        return {code: found[code] for code in KINDS if code in found}

    def text(self, *, warnings: int = 10) -> str:
        """Return the report for a terminal: all errors, and at most so many warnings of a kind (0
        for all).
        """
        lines = [self._overview()]
        lines += [printable(f"note: {note}", line=True) for note in self.notes]
        lines += self._list_issues("ERRORS", self.errors, 0)
        lines += self._list_issues("warnings", self.warnings, warnings)
        lines.append(f"\n{self.verdict()}")
        return "\n".join(lines)

    def _list_issues(self, title: str, issues: Sequence[Issue], limit: int) -> list[str]:
        """Return the lines of the issues by kind, at most `limit` of each (0 for all)."""
        if not issues:
            return []
        lines = [f"\n{title} ({len(issues)})"]
        for code, some in self.by_kind(issues).items():
            lines.append(f"  {code}: {KINDS[code].title} ({len(some)})")
            for issue in some[: limit or None]:
                lines.append(printable(f"    {issue.file}: {issue.reason}", line=True))
            if limit and len(some) > limit:
                lines.append(f"    ... and {len(some) - limit} more (--warnings 0 shows all)")
        return lines

    def verdict(self) -> str:
        """Return one line: the number of problems, files and seconds."""
        return (
            f"{self.root}: {len(self.errors)} errors, {len(self.warnings)} warnings;"
            f" {self.prober.decoded} files decoded, {self.prober.from_cache} unchanged and taken"
            f" from the cache; {self.seconds:.1f} s"
        )

    def _overview(self) -> str:
        """Return images, sizes and classes of the splits as a table."""
        filled = {split: stats for split, stats in self.statistics.items() if stats.images}
        if not filled:
            return f"{self.root}: no image could be read"
        rows = [
            ["images", *(str(stats.images) for stats in filled.values())],
            ["sizes", *(_few_sizes(stats.sizes) for stats in filled.values())],
            ["kinds", *(", ".join(stats.kinds) for stats in filled.values())],
            ["mean", *(_three_digits(stats.mean) for stats in filled.values())],
            ["std", *(_three_digits(stats.std) for stats in filled.values())],
        ]
        if self.label_spec is not None:
            for index, name in enumerate(self.label_spec.classes):
                rows.append([name, *(stats.class_text(index) for stats in filled.values())])
            rows.append(["ignored pixels", *(str(stats.ignored) for stats in filled.values())])
        return markdown_table([self.root.name, *filled], rows)

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs; `tools/check_data.py --help` describes the schema."""
        return {
            "schema": SCHEMA,
            "root": str(self.root),
            "ok": not self.errors,
            "counts": {
                "errors": len(self.errors),
                "warnings": len(self.warnings),
                "codes": dict(Counter(issue.code for issue in self.issues)),
            },
            "issues": [_issue_to_json(issue) for issue in self.issues],
            **_label_spec_to_json(self.label_spec),
            "notes": list(self.notes),
            "splits": {
                split: {"names": self.names.get(split, []), **stats.to_json(self.label_spec)}
                for split, stats in self.statistics.items()
            },
            "files": {"decoded": self.prober.decoded, "from_cache": self.prober.from_cache},
            "seconds": round(self.seconds, 2),
        }


def _issue_to_json(issue: Issue) -> dict[str, Any]:
    return {
        "code": issue.code,
        "severity": issue.kind.severity,
        "file": issue.file,
        "reason": issue.reason,
        "samples": [sample.name for sample in issue.samples],
        "details": issue.details,
    }


def _label_spec_to_json(spec: LabelSpec | None) -> dict[str, Any]:
    if spec is None:
        return dict.fromkeys(("task", "classes", "mask_values", "ignore_index"))
    values = None
    if spec.mask_values:
        values = {str(value): index for value, index in spec.mask_values.items()}
    return {
        "task": spec.task,
        "classes": list(spec.classes),
        "mask_values": values,
        "ignore_index": spec.ignore_index,
    }


def _few_sizes(sizes: Counter) -> str:
    shown = ", ".join(f"{width}x{height}" for (height, width), _ in sizes.most_common(2))
    return f"{shown} +{len(sizes) - 2}" if len(sizes) > 2 else shown


def _three_digits(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
