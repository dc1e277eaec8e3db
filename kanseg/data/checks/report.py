"""The report of the check of a data set, as text and as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanseg.data.checks.prober import LabelFacts, Prober
from kanseg.data.checks.statistics import Statistics, three_digits
from kanseg.data.formats.index import DatasetIndex
from kanseg.data.formats.issues import KINDS, Issue
from kanseg.data.label_spec import LabelSpec
from kanseg.data.names import few, join_texts
from kanseg.data.sample import Sample
from kanseg.utils.language import translate
from kanseg.utils.tables import markdown_table
from kanseg.utils.text import printable

SCHEMA = 1


@dataclass
class Report:
    """The result of the check of a data set.

    Args:
        index: the samples and the label spec of the data set.
        prober: the facts about its files.
        issues: all problems.
        splits: train, val, test (and "other": images in none of them) -> all samples, including
            those with problems.
        names: train, val, test -> the names of these splits in the data set.
        labels: of the samples without errors.
        statistics: of each split.
        notes: lines about automatic decisions, such as a seeded split.
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
        found: set[Sample] = set()
        for issue in self.errors:
            found.update(issue.samples)
        return found

    def good(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return the samples without errors."""
        bad = self.bad
        return [sample for sample in samples if sample not in bad]

    def all_samples(self) -> list[Sample]:
        """Return the samples of all splits, each once."""
        found: dict[Sample, None] = {}
        for samples in self.splits.values():
            found |= dict.fromkeys(samples)
        return list(found)

    def lines(self, issues: Iterable[Issue]) -> list[str]:
        """Return `FILE: reason` with full paths, one line for all files with the same reason."""
        lines = []
        for reason, files in self.by_reason(issues).items():
            files = [self.root / file for file in files]
            lines.append(printable(f"{few(files)}: {reason}", line=True))
        return lines

    def by_reason(self, issues: Iterable[Issue]) -> dict[str, list[str]]:
        """Return reason -> files, in the order of the issues. Files whose reasons differ only in
        values share one, except reasons about the data set as a whole.
        """
        groups: dict[tuple[str, str], list[Issue]] = defaultdict(list)
        for issue in issues:
            text = issue.shared or issue.reason
            if issue.file != ".":
                text = getattr(text, "english", text)
            groups[issue.code, text].append(issue)
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for some in groups.values():
            reason = some[0].reason
            if len(some) > 1:
                reason = join_texts([issue.shared or issue.reason for issue in some])
            found[reason] |= dict.fromkeys(issue.file for issue in some)
        return {reason: list(files) for reason, files in found.items()}

    def by_kind(self, issues: Iterable[Issue]) -> dict[str, list[Issue]]:
        """Return code -> issues, in the order of `KINDS`."""
        found = defaultdict(list)
        for issue in issues:
            found[issue.code].append(issue)
        return {code: found[code] for code in KINDS if code in found}

    def text(self, *, warnings: int = 10) -> str:
        """Return the report for a terminal: all errors, and at most `warnings` lines of warnings of
        each kind (0 for all). Files with the same reason share a line.
        """
        lines = [self._overview()]
        for note in self.notes:
            lines.append(printable(translate("note: {note}", note=note), line=True))
        lines += self._list_issues(translate("ERRORS"), self.errors, 0)
        lines += self._list_issues(translate("warnings"), self.warnings, warnings)
        lines.append(f"\n{self.root}: {self.verdict()}")
        return "\n".join(lines)

    def _list_issues(self, title: str, issues: Sequence[Issue], limit: int) -> list[str]:
        """Return the lines of the issues by kind, at most `limit` lines of each (0 for all)."""
        if not issues:
            return []
        lines = [f"\n{title} ({len(issues)})"]
        for code, some in self.by_kind(issues).items():
            lines.append(f"  {code}: {translate(KINDS[code].title)} ({len(some)})")
            by_reason = list(self.by_reason(some).items())
            for reason, files in by_reason[: limit or None]:
                lines.append(printable(f"    {few(files)}: {reason}", line=True))
            if limit and len(by_reason) > limit:
                more = sum(len(files) for _, files in by_reason[limit:])
                rest = translate("... and {count} more (--warnings 0 shows all)", count=more)
                lines.append(f"    {rest}")
        return lines

    def verdict(self) -> str:
        """Return one line: the number of problems, files and seconds."""
        return translate(
            "Errors: {errors}, warnings: {warnings}. {decoded} files were decoded; {cached} are"
            " unchanged and were read from the cache. {seconds} s",
            errors=len(self.errors),
            warnings=len(self.warnings),
            decoded=self.prober.decoded,
            cached=self.prober.from_cache,
            seconds=f"{self.seconds:.1f}",
        )

    def _overview(self) -> str:
        """Return images, sizes and classes of the splits as a table."""
        classes: tuple[str, ...] = ()
        if self.label_spec is not None:
            classes = self.label_spec.classes
        titles = [
            translate("images"),
            translate("height x width"),
            translate("kinds"),
            translate("mean"),
            translate("std"),
            *classes,
        ]
        if self.label_spec is not None:
            titles.append(translate("ignored pixels"))
        header, columns = [self.root.name], [titles]
        for split, stats in self.statistics.items():
            if not stats.images:
                continue
            header.append(split)
            most_common = stats.sizes.most_common(2)
            sizes = ", ".join(f"{height}x{width}" for (height, width), _ in most_common)
            if len(stats.sizes) > 2:
                sizes += f" +{len(stats.sizes) - 2}"
            column = [
                str(stats.images),
                sizes,
                ", ".join(stats.kinds),
                three_digits(stats.mean),
                three_digits(stats.std),
                *(stats.class_text(index) for index in range(len(classes))),
            ]
            if self.label_spec is not None:
                column.append(str(stats.ignored))
            columns.append(column)
        if len(columns) == 1:
            return translate(
                "{folder}: no sample can be used; the first error below is the cause",
                folder=self.root,
            )
        return markdown_table(header, list(zip(*columns, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs; `kanseg check --help` describes the schema."""
        splits = {}
        for split, stats in self.statistics.items():
            names = self.names.get(split, [])
            splits[split] = {"names": names, **stats.to_json(self.label_spec)}
        issues = []
        for issue in self.issues:
            issues.append(
                {
                    "code": issue.code,
                    "severity": issue.kind.severity,
                    "file": issue.file,
                    "reason": issue.reason,
                    "samples": [sample.name for sample in issue.samples],
                    "details": issue.details,
                }
            )
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
            **_label_spec_to_json(self.label_spec),
            "notes": list(self.notes),
            "splits": splits,
            "files": {"decoded": self.prober.decoded, "from_cache": self.prober.from_cache},
            "seconds": round(self.seconds, 2),
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
