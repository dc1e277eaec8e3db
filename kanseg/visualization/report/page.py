"""report.html: a self-contained page about a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from kanseg.utils.command import command
from kanseg.utils.html import InlineImage, png_url, render_page
from kanseg.utils.io import atomic_write_text
from kanseg.utils.language import translate
from kanseg.utils.reading import parse_yaml
from kanseg.visualization.report.tables import format_value, readable_name, score_tables

TEMPLATE = Path(__file__).parent / "templates" / "report.html"
MAX_PAGE = 5_000_000  # characters, so that the page can be sent by mail
MAX_PNG = 300_000  # bytes; larger images become JPEG
# JPEG quality, and the factor by which images shrink: the first that keeps the page small enough.
COMPRESSIONS = ((88, 1), (70, 1), (45, 1), (45, 2))
IMAGES = {
    "worst.png": (
        "Worst images",
        (
            "The lowest scores first, or the most confident mistakes of a classifier. A low score"
            " can also come from a wrong label."
        ),
    ),
    "overview.png": ("Samples", "Evenly spaced over the split."),
    "best.png": ("Best images", "The highest scores first."),
    "curves.png": (
        "Learning curves",
        "The dashed line marks the epoch with the best weights.",
    ),
    "confusion.png": (
        "Confusion matrix",
        "Rows are the true classes; colors are shares of the row, numbers are counts.",
    ),
}
# Shown at the top where they exist.
SPLIT_SCORES = ("foreground_iou", "foreground_dice", "top1", "mean_f1")
EXPLANATION = "explain.html"  # of `kanseg explain`, to which the page links where it exists
RUN_FIGURES = ("parameters", "epochs", "best_epoch", "seconds")


class Figure(NamedTuple):
    """An image of the run; its title is its `alt`."""

    image: InlineImage
    note: str


def draw_report(
    run: Path, results: Mapping[str, Any] | None = None, *, max_size: int = MAX_PAGE
) -> Path:
    """Write run/report.html from the files in a run folder: images, scores, settings and commands.

    Args:
        run: folder with worst.png, best.png, overview.png, curves.png, confusion.png and
            config.yaml; missing ones are left out.
        results: the content of metrics.json, `{"val": scores, "test": scores, "parameters": ...,
            ...}`; by default it is read from the file.
        max_size: largest number of characters of the page; images are compressed to stay below.
    """
    metrics, config = run / "metrics.json", run / "config.yaml"
    if results is None and metrics.is_file():
        results = json.loads(metrics.read_text(encoding="utf-8"))
    settings = ""
    if config.is_file():
        settings = config.read_text(encoding="utf-8")
    page = ""
    for quality, shrink in COMPRESSIONS:
        figures = []
        for name in IMAGES:
            if (run / name).is_file():
                figures.append(_figure(run / name, quality, shrink))
        page = _render(run, results or {}, settings, figures)
        if len(page) < max_size:
            break
    atomic_write_text(run / "report.html", page)
    return run / "report.html"


def _render(run: Path, results: Mapping[str, Any], settings: str, figures: list[Figure]) -> str:
    config = parse_yaml(settings) or {}
    splits = {}
    others = []
    for name, value in results.items():
        if isinstance(value, Mapping) and "images" in value:
            splits[name] = value
        else:
            others.append((readable_name(name), format_value(value)))
    test_first = dict(reversed(splits.items()))
    sections = [figure.image.alt for figure in figures]
    tables = {}
    for name, scores in test_first.items():
        tables[translate("Scores of {split}", split=name)] = score_tables(scores)
    sections += tables
    if config:
        sections += [translate("Commands"), translate("Settings")]
    else:
        settings = ""
    sections.append(translate("Run"))
    model, data = config.get("model", {}), config.get("data", {})
    subtitle = ""
    if model:
        subtitle = translate(
            "{model}, basis {basis}, on {data}",
            model=model.get("name"),
            basis=model.get("basis"),
            data=data.get("root"),
        )
    return render_page(
        TEMPLATE,
        title=run.resolve().name,
        subtitle=subtitle,
        tiles=_tiles(test_first, results),
        sections=sections,
        figures=figures,
        splits=tables,
        commands=_commands(run, config),
        settings=settings,
        run=others,
        explanation=EXPLANATION if (run / EXPLANATION).is_file() else None,
    )


def _figure(path: Path, quality: int, shrink: int) -> Figure:
    """A PNG file of the run with title and note; a large file becomes JPEG."""
    title, note = IMAGES[path.name]
    url = png_url(path.read_bytes(), max_size=MAX_PNG, quality=quality, shrink=shrink)
    with Image.open(path) as image:
        width, height = image.size
    return Figure(InlineImage(url, width, height, translate(title)), translate(note))


def _tiles(splits: Mapping[str, Any], results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of the most important numbers."""
    tiles = []
    for split, scores in splits.items():
        for name in SPLIT_SCORES:
            if name in scores:
                tiles.append((f"{split}: {readable_name(name)}", format_value(scores[name])))
        if "per_image" in scores:
            mean = format_value(scores["per_image"].get("foreground_iou"))
            tiles.append((f"{split}: {readable_name('foreground_iou per image')}", mean))
        images = translate("images in {split}", split=split)
        tiles.append((images, format_value(scores["images"])))
    for name in RUN_FIGURES:
        if name in results:
            tiles.append((readable_name(name), format_value(results[name])))
    return tiles


def _commands(run: Path, config: Mapping[str, Any]) -> str:
    """Shell commands that use the run."""
    run_dir = str(config.get("run_dir", run))
    folder = shlex.quote(run_dir)
    is_classifier = "loss" not in config.get("training", {})
    verb = "classify" if is_classifier else "train"
    resume = translate("resume after an interruption")
    best = shlex.quote(str(Path(run_dir) / "best"))
    learned = translate("what the network has learned, and where it looks, as a page")
    data = config.get("data", {})
    splits = data.get("test") or data.get("val") or data.get("train") or ["test"]
    predict = translate("masks for images: a file, a folder, or a pattern in quotes")
    output = "masks"
    if is_classifier:
        predict = translate("classes of images: a file, a folder, or a pattern in quotes")
        output = "predictions"
    evaluate = translate("scores on a split")
    return "\n".join(
        [
            f"# {predict}",
            f"{command('predict')} --checkpoint {best} --input IMAGES --output {output}",
            f"# {evaluate}",
            f"{command('evaluate')} --checkpoint {best} --split {shlex.join(splits)}",
            f"# {learned}",
            f"{command('explain')} --checkpoint {best} --input IMAGES",
            f"# {resume}",
            f"{command(verb)} --resume --run_dir {folder}",
        ]
    )
