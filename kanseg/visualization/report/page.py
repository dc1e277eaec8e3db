"""report.html: a self-contained page about a run."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from kanseg.utils.html import image_url, render_page
from kanseg.utils.io import atomic_write_text
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
SPLIT_SCORES = ("mean_iou", "mean_dice", "top1", "mean_f1")  # shown at the top where they exist
RUN_FIGURES = ("parameters", "epochs", "best_epoch", "seconds")


class InlineImage(NamedTuple):
    """An image of the run, inside the page."""

    title: str
    note: str
    url: str


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
        images = []
        for name, (title, note) in IMAGES.items():
            if (run / name).is_file():
                images.append(InlineImage(title, note, _encoded(run / name, quality, shrink)))
        page = _render(run, results or {}, settings, images)
        if len(page) < max_size:
            break
    atomic_write_text(run / "report.html", page)
    return run / "report.html"


def _render(run: Path, results: Mapping[str, Any], settings: str, images: list[InlineImage]) -> str:
    config = parse_yaml(settings) or {}
    splits = {}
    others = []
    for name, value in results.items():
        if isinstance(value, Mapping) and "images" in value:
            splits[name] = value
        else:
            others.append((readable_name(name), format_value(value)))
    test_first = dict(reversed(splits.items()))
    sections = [image.title for image in images]
    tables = {}
    for name, scores in test_first.items():
        tables[f"Scores of {name}"] = score_tables(scores)
    sections += tables
    if config:
        sections += ["Commands", "Settings"]
    else:
        settings = ""
    sections.append("Run")
    model, data = config.get("model", {}), config.get("data", {})
    subtitle = ""
    if model:
        subtitle = f"{model.get('name')}, basis {model.get('basis')}, on {data.get('root')}"
    return render_page(
        TEMPLATE,
        title=run.resolve().name,
        subtitle=subtitle,
        tiles=_tiles(test_first, results),
        sections=sections,
        images=images,
        splits=tables,
        commands=_commands(run, config),
        settings=settings,
        run=others,
    )


def _encoded(path: Path, quality: int, shrink: int) -> str:
    """A PNG file as a data URL; large files become JPEG."""
    content = path.read_bytes()
    if len(content) <= MAX_PNG:
        return image_url(content, "png")
    stream = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB").reduce(shrink)
        small.save(stream, "JPEG", quality=quality, subsampling=0)
    return image_url(stream.getvalue(), "jpeg")


def _tiles(splits: Mapping[str, Any], results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of the most important numbers."""
    tiles = []
    for split, scores in splits.items():
        for name in SPLIT_SCORES:
            if name in scores:
                tiles.append((f"{split}: {readable_name(name)}", format_value(scores[name])))
        if "per_image" in scores:
            mean = format_value(scores["per_image"].get("mean_iou"))
            tiles.append((f"{split}: mean IoU per image", mean))
        tiles.append((f"images in {split}", format_value(scores["images"])))
    for name in RUN_FIGURES:
        if name in results:
            tiles.append((readable_name(name), format_value(results[name])))
    return tiles


def _commands(run: Path, config: Mapping[str, Any]) -> str:
    """Shell commands that use the run."""
    run_dir = str(config.get("run_dir", run))
    folder = shlex.quote(run_dir)
    is_classifier = "loss" not in config.get("training", {})
    tool = "train_cls.py" if is_classifier else "train_seg.py"
    resume = f"# resume after an interruption\npython tools/{tool} --resume --run_dir {folder}"
    if is_classifier:
        return resume
    best = shlex.quote(str(Path(run_dir) / "best"))
    data = config.get("data", {})
    splits = data.get("test") or data.get("val") or data.get("train") or ["test"]
    return "\n".join(
        [
            "# masks for images: a file, a folder, or a pattern in quotes",
            f"python tools/predict.py --checkpoint {best} --input IMAGES --output masks",
            "# scores on a split",
            f"python tools/evaluate.py --checkpoint {best} --split {shlex.join(splits)}",
            resume,
        ]
    )
