"""The report as one HTML file that needs nothing else: figures, faults with their images, a sheet
of samples.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kanseg.data.checks.prober import mask_files
from kanseg.data.checks.report import Report
from kanseg.data.checks.statistics import Statistics
from kanseg.data.formats.issues import KINDS, Issue
from kanseg.data.io.images import read_image, read_mask_values
from kanseg.data.labels import read_label
from kanseg.data.overlay import overlay, viewable
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError

SIDE = 168  # of a thumbnail
SHEET = 12  # samples drawn for each split
DRAWN = 24  # faults of a kind that are shown with images; all are listed
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 24px auto; max-width: 1180px;
  padding: 0 16px; color: #222; background: #fff }
h1 { font-size: 22px } h2 { font-size: 17px; margin-top: 32px; border-bottom: 1px solid #ddd }
h3 { font-size: 14px; margin: 18px 0 6px }
table { border-collapse: collapse }
td, th { padding: 3px 12px 3px 0; text-align: left; vertical-align: top } .n { text-align: right }
.error { color: #b00020 } .warning { color: #8a5a00 } .good { color: #1b6e2e }
.muted { color: #666 } code { font-size: 13px }
.sheet { display: flex; flex-wrap: wrap; gap: 10px } figure { margin: 0; width: 170px }
figcaption { font-size: 11px; overflow-wrap: anywhere }
.sheet.pairs figure { width: 350px }
img { display: inline-block; image-rendering: auto; margin-right: 3px; background: #eee }
.bar { display: inline-block; height: 11px; vertical-align: middle; margin-right: 6px }
.track { width: 190px; white-space: nowrap }
li { margin: 1px 0; overflow-wrap: anywhere }
"""


def page(report: Report, *, seed: int = 0) -> str:
    """The HTML text; the samples of the sheets are drawn with the seed."""
    verdict = "good" if not report.errors else "error"
    parts = [
        f"<h1>{escape(report.root.name or str(report.root))}</h1>",
        f"<p class='{verdict}'>{escape(report.verdict())}</p>",
        "".join(f"<p class='muted'>{escape(note)}</p>" for note in report.notes),
        *(
            _faults(report, severity, title)
            for severity, title in (("error", "Errors"), ("warning", "Warnings"))
        ),
        _overview(report),
        _classes(report),
        _sizes(report),
        *(_sheet(report, split, seed) for split in report.splits),
    ]
    head = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>Check of"
        f" {escape(report.root.name)}</title>"
    )
    return (
        f"<!DOCTYPE html><html lang='en'><head>{head}<style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _filled(report: Report) -> dict[str, Statistics]:
    return {split: stats for split, stats in report.statistics.items() if stats.images}


def _overview(report: Report) -> str:
    rows = [
        [
            split,
            stats.images,
            ", ".join(f"{kind}: {count}" for kind, count in stats.kinds.most_common()),
            _moments(stats.mean),
            _moments(stats.std),
            stats.ignored,
        ]
        for split, stats in _filled(report).items()
    ]
    return "<h2>Splits</h2>" + _table(
        ["split", "images", "kinds", "mean", "std", "ignored pixels"], rows
    )


def _moments(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _classes(report: Report) -> str:
    """A bar for the share of each class in each split."""
    if report.label_spec is None:
        return ""
    splits = _filled(report)
    rows = []
    for index, (name, color) in enumerate(
        zip(report.label_spec.classes, report.label_spec.colors, strict=True)
    ):
        cells = [
            _bar(
                float(stats.shares[index]),
                f"{100 * stats.shares[index]:.2f} %, in {stats.with_class[index]}",
                color,
            )
            for stats in splits.values()
        ]
        rows.append([_Html(f"{_square(color)}{escape(name)}"), *cells])
    return "<h2>Share of the pixels, and images that hold the class</h2>" + _table(
        ["class", *splits], rows
    )


def _square(color: tuple[int, int, int]) -> str:
    return f"<span class='bar' style='width:11px;background:rgb{tuple(color)}'></span>"


def _sizes(report: Report) -> str:
    """The most frequent sizes of all images as bars."""
    sizes = sum(
        (stats.sizes for stats in report.statistics.values()), start=type(Statistics().sizes)()
    )
    most = max(sizes.values(), default=1)
    rows = [
        [f"{width}x{height}", _bar(count / most, str(count), (90, 120, 170))]
        for (height, width), count in sizes.most_common(20)
    ]
    more = f"<p class='muted'>and {len(sizes) - 20} more sizes</p>" if len(sizes) > 20 else ""
    return (
        "<h2>Sizes (width x height) and their images</h2>" + _table(["size", "images"], rows) + more
    )


class _Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def _bar(share: float, text: str, color: tuple[int, int, int]) -> _Html:
    width = 0 if np.isnan(share) else round(100 * share, 1)
    border = "outline:1px solid #999;" if sum(color) > 600 else ""
    return _Html(
        f"<div class='track'><span class='bar' style='{border}width:{width}px;"
        f"background:rgb{tuple(color)}'></span>{escape(text)}</div>"
    )


def _table(header: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{cell if isinstance(cell, _Html) else escape(str(cell))}</td>" for cell in row
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _faults(report: Report, severity: str, title: str) -> str:
    issues = [issue for issue in report.issues if issue.kind.severity == severity]
    if not issues:
        return ""
    parts = [f"<h2 class='{severity}'>{title} ({len(issues)})</h2>"]
    for code, some in report.by_kind(issues).items():
        figures = [figure for issue in some[:DRAWN] if (figure := _figure_of_fault(report, issue))]
        listed = "".join(
            f"<li><code>{escape(issue.file)}</code>: {escape(issue.reason)}</li>" for issue in some
        )
        parts.append(
            f"<h3><code>{code}</code> {escape(KINDS[code].title)}"
            f" ({len(some)})</h3><ul>{listed}</ul>"
        )
        parts.append(f"<div class='sheet pairs'>{''.join(figures)}</div>" if figures else "")
    return "".join(parts)


def _figure_of_fault(report: Report, issue: Issue) -> str:
    """Image and mask of a sample beside each other, as far as they can be read; nothing for a
    fault that no image shows.
    """
    sample = issue.samples[0] if issue.samples else None
    paths = (
        [sample.image, *list(mask_files(sample))[:1]]
        if sample
        else [report.root / issue.file] * (Path(issue.file).suffix != "")
    )
    other = issue.details.get("other")
    paths = [report.root / issue.file, report.root / other] if other else paths
    images = [
        _thumbnail(array)
        for path in dict.fromkeys(paths)
        if (
            array := _seen(
                path, report, is_mask=sample is not None and path != sample.image and not other
            )
        )
        is not None
    ]
    return (
        f"<figure>{''.join(images)}<figcaption>{escape(issue.file)}</figcaption></figure>"
        if images
        else ""
    )


def _seen(path: Path, report: Report, *, is_mask: bool) -> np.ndarray | None:
    """(H, W, 3) of a file for the eye; of a mask its values spread over the grays."""
    try:
        array = (
            read_mask_values(path, max_pixels=report.prober.max_pixels)
            if is_mask
            else read_image(path, max_pixels=report.prober.max_pixels)
        )
    except InputError:
        return None
    if is_mask and array.ndim == 2:
        array = (array.astype(np.float32) * (255 / max(int(array.max()), 1))).astype(np.uint8)[
            :, :, None
        ]
    return viewable(array)


def _sheet(report: Report, split: str, seed: int) -> str:
    """Random samples of a split with their labels laid over them."""
    good = [
        sample
        for sample in report.splits[split]
        if sample in report.labels and sample not in report.bad
    ]
    if not good or report.label_spec is None:
        return ""
    chosen = np.random.default_rng(seed).permutation(len(good))[:SHEET]
    figures = [_figure(report, good[index]) for index in sorted(chosen)]
    return (
        f"<h2>{escape(split)}: {len(figures)} of {len(good)} samples</h2><div"
        f" class='sheet'>{''.join(figures)}</div>"
    )


def _figure(report: Report, sample: Sample) -> str:
    label = read_label(sample, report.label_spec)
    colors = report.label_spec.colors
    if label.ndim == 3:  # the last class that is there is seen; 0 is nothing
        label, colors = (
            np.where(
                label == 1, np.arange(1, len(label) + 1, dtype=np.uint8)[:, None, None], 0
            ).max(axis=0),
            [(0, 0, 0), *colors],
        )
    image = read_image(sample.image, max_pixels=report.prober.max_pixels)
    return (
        f"<figure>{_thumbnail(overlay(image, label, colors))}"
        f"<figcaption>{escape(sample.name)}</figcaption></figure>"
    )


def _thumbnail(array: np.ndarray) -> str:
    """(H, W, 3) uint8 -> an image tag that holds the image as PNG."""
    scale = SIDE / max(array.shape[:2])
    size = (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale)))
    small = cv2.resize(
        array, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    )
    _, data = cv2.imencode(".png", np.ascontiguousarray(small[:, :, ::-1]))
    return (
        f"<img width={size[0]} height={size[1]} alt=''"
        f" src='data:image/png;base64,{base64.b64encode(data).decode()}'>"
    )
