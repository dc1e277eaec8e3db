"""The report of a check as one HTML page: problems with their images, statistics, and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from kanseg.data.checks.prober import mask_files
from kanseg.data.checks.report import Report
from kanseg.data.checks.statistics import Statistics, three_digits
from kanseg.data.formats.issues import KINDS, Issue
from kanseg.data.io.images import read_image, read_mask_values
from kanseg.data.label_spec import Color
from kanseg.data.labels import read_label
from kanseg.data.overlay import overlay, viewable
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.html import InlineImage, png_url, render_page
from kanseg.utils.language import translate

TEMPLATE = Path(__file__).parent / "templates" / "check.html"
THUMBNAIL = 168  # longer side of an image on the page, in pixels
MAX_SIDE = 400  # longer side when it is enlarged; smaller images are kept as they are
MAX_PNG = 50_000  # bytes; larger images become JPEG
MAX_SAMPLES = 12  # shown for each split
MAX_FIGURES = 24  # problems of a kind that are shown with images; the page lists all
MAX_SIZES = 20
BAR = 100  # pixels of a full bar
SIZE_COLOR = (90, 120, 170)


class Figure(NamedTuple):
    """A small image, and the text below it."""

    image: InlineImage
    caption: str


class Bar(NamedTuple):
    """A colored bar of `width` pixels with a text beside it."""

    text: str
    width: float
    color: Color


class Problems(NamedTuple):
    """All problems of one kind, and the images of some of them."""

    code: str
    title: str
    count: int
    files_of: dict[str, list[str]]  # by the reason
    figures: list[list[Figure]]


class ClassRow(NamedTuple):
    """A class and the share of its pixels in each split."""

    name: str
    color: Color
    bars: list[Bar]


def render_check(report: Report, *, seed: int = 0) -> str:
    """Return a report as an HTML page.

    Args:
        report: of `check_data`.
        seed: of the random samples.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    filled, rows = [], []
    for split, statistics in report.statistics.items():
        sizes.update(statistics.sizes)
        if statistics.images:
            filled.append(statistics)
            rows.append(_split_row(split, statistics))
    return render_page(
        TEMPLATE,
        title=report.root.name or str(report.root),
        root=report.root,
        verdict=report.verdict(),
        has_errors=bool(report.errors),
        notes=report.notes,
        faults=_faults(report),
        splits=rows,
        classes=_class_rows(report, filled),
        sizes=_size_rows(sizes),
        more_sizes=max(0, len(sizes) - MAX_SIZES),
        grids=_sample_grids(report, seed),
    )


def _faults(report: Report) -> list[tuple[str, str, list[Problems]]]:
    """Return (title, severity, problems by kind), errors first."""
    found = []
    for severity, name, issues in (
        ("error", translate("Errors"), report.errors),
        ("warning", translate("Warnings"), report.warnings),
    ):
        kinds = []
        for code, some in report.by_kind(issues).items():
            figures = []
            for issue in some[:MAX_FIGURES]:
                images = _problem_images(report, issue)
                if images:
                    figures.append(images)
            title, files_of = translate(KINDS[code].title), report.by_reason(some)
            kinds.append(Problems(code, title, len(some), files_of, figures))
        if kinds:
            found.append((f"{name} ({len(issues)})", severity, kinds))
    return found


def _split_row(split: str, statistics: Statistics) -> list[object]:
    kinds = [f"{kind}: {count}" for kind, count in statistics.kinds.most_common()]
    return [
        split,
        statistics.images,
        ", ".join(kinds),
        three_digits(statistics.mean),
        three_digits(statistics.std),
        statistics.ignored,
    ]


def _class_rows(report: Report, splits: Collection[Statistics]) -> list[ClassRow]:
    if report.label_spec is None:
        return []
    rows = []
    for index, name in enumerate(report.label_spec.classes):
        color = report.label_spec.colors[index]
        bars = []
        for statistics in splits:
            share = float(statistics.shares[index])
            bars.append(_bar(statistics.class_text(index), share, color))
        rows.append(ClassRow(name, color, bars))
    return rows


def _size_rows(sizes: Counter[tuple[int, int]]) -> list[tuple[str, Bar]]:
    """Return (size, bar of its images), the most frequent sizes first."""
    most = max(sizes.values(), default=1)
    rows = []
    for (height, width), count in sizes.most_common(MAX_SIZES):
        rows.append((f"{height}x{width}", _bar(str(count), count / most, SIZE_COLOR)))
    return rows


def _bar(text: str, share: float, color: Color) -> Bar:
    width = 0.0
    if not np.isnan(share):
        width = round(BAR * share, 1)
    return Bar(text, width, color)


def _problem_images(report: Report, issue: Issue) -> list[Figure]:
    """Return image and mask of the sample, or the two files of a duplicate, without files that
    cannot be read. The caption of each is its file.
    """
    file, other = report.root / issue.file, issue.details.get("other")
    images: list[Path] = []
    masks: list[Path] = []
    if other:
        images = [file, report.root / other]
    elif issue.samples:
        images, masks = [issue.samples[0].image], list(mask_files(issue.samples[0]))
        masks = [file] if file in masks else masks[:1]
    elif file.suffix:
        images = [file]
    max_pixels = report.prober.max_pixels
    figures = []
    for path in dict.fromkeys([*images, *masks]):
        name = report.prober.name(path)
        try:
            if path in masks:
                array = read_mask_values(path, max_pixels=max_pixels)
                alt = translate("Mask {name}", name=name)
            else:
                array = read_image(path, max_pixels=max_pixels)
                alt = translate("Image {name}", name=name)
        except InputError:
            continue
        if array.ndim == 2:  # indices as shades of gray, the largest white
            scale = 255 / max(int(array.max()), 1)
            array = (array.astype(np.float32) * scale).astype(np.uint8)[:, :, None]
        figures.append(Figure(_inline(viewable(array), alt), name))
    return figures


def _sample_grids(report: Report, seed: int) -> list[tuple[str, list[Figure]]]:
    """Return (title, images) of random samples of each split, with their labels overlaid."""
    if report.label_spec is None:
        return []
    grids = []
    for split, samples in report.splits.items():
        good = [sample for sample in report.good(samples) if sample in report.labels]
        if not good:
            continue
        chosen = np.random.default_rng(seed).permutation(len(good))[:MAX_SAMPLES]
        figures = [_overlaid(report, good[index]) for index in sorted(chosen)]
        title = translate(
            "{split}: {shown} of {total} samples",
            split=split,
            shown=len(figures),
            total=len(good),
        )
        grids.append((title, figures))
    return grids


def _overlaid(report: Report, sample: Sample) -> Figure:
    label = read_label(sample, report.label_spec)
    colors = report.label_spec.colors
    if label.ndim == 3:
        # Multilabel (N, H, W) -> (H, W): the last class of each pixel, 0 for none.
        numbers = np.arange(1, len(label) + 1, dtype=np.uint8)[:, None, None]
        label = np.where(label == 1, numbers, 0).max(axis=0)
        colors = [(0, 0, 0), *colors]
    image = read_image(sample.image, max_pixels=report.prober.max_pixels)
    alt = translate("Image {name} with its labels", name=sample.name)
    return Figure(_inline(overlay(image, label, colors), alt), sample.name)


def _inline(image: np.ndarray, alt: str) -> InlineImage:
    """Return an image (H, W, 3) uint8 that is shown in a square of THUMBNAIL pixels."""
    if max(image.shape[:2]) > MAX_SIDE:
        image = cv2.resize(image, _fitted(image, MAX_SIDE), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
    url = png_url(data.tobytes(), max_size=MAX_PNG)
    return InlineImage(url, *_fitted(image, THUMBNAIL), alt)


def _fitted(image: np.ndarray, side: int) -> tuple[int, int]:
    """Return (width, height) of an image scaled to a longer side of `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))
