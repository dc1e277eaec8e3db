"""report.html: one page of a run, complete in itself, to look at and to send."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import parse_yaml
from kanseg.visualization.report.tables import scores_as_html, shown, table, words

LARGEST = 5_000_000  # bytes of the page, so that it can be sent by mail
QUALITIES = (
    (88, 1),
    (70, 1),
    (45, 1),
    (45, 2),
)  # of JPEG, and by how much images shrink: the first that keeps the page below that
AS_PNG = 300_000  # bytes up to which an image stays as it is
IMAGES = {
    "worst.png": (
        "Worst images",
        (
            "The lowest scores first, or the surest mistakes of a classifier. Look for faults of"
            " the labels as well as of the network."
        ),
    ),
    "overview.png": ("Samples", "Evenly chosen over the set."),
    "best.png": ("Best images", "The highest scores first."),
    "curves.png": (
        "Learning curves",
        "The dashed line marks the epoch whose weights were kept as best.",
    ),
    "confusion.png": (
        "Confusion",
        "Rows are the truth; colors are shares of the row, numbers are counts.",
    ),
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1100px;
  margin: 2em auto; padding: 0 1em; }
h1 { margin-bottom: 0; overflow-wrap: anywhere; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; } h3 { margin-bottom: .3em; }
nav a { margin-right: 1em; } .note { color: #666; }
img { max-width: 100%; height: auto; border: 1px solid #ddd; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; max-width: 16em; overflow-wrap: break-word; }
.bar { background: linear-gradient(#b9d8ee, #b9d8ee) no-repeat left / 0 100%; }
.tiles { display: flex; flex-wrap: wrap; gap: .8em; margin: 1em 0; }
.tile { background: #f3f5f7; border-radius: 6px; padding: .5em 1em; }
.tile b { display: block; font-size: 1.4em; }
pre { background: #f3f5f7; padding: .8em; border-radius: 6px; overflow-x: auto; }
"""


def draw_report(run: Path, results: Mapping[str, Any] | None = None) -> Path:
    """Write run/report.html from what lies in the folder: images inlined, scores, settings,
    commands; what is missing is left out.

    Args:
        run: folder with any of worst.png, best.png, overview.png, curves.png, confusion.png,
            config.yaml.
        results: what metrics.json holds, `{"val": scores, "test": scores, "parameters": ..., ...}`;
            by default it is read from there.
    """
    metrics, config = run / "metrics.json", run / "config.yaml"
    if results is None:
        results = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    settings = config.read_text(encoding="utf-8") if config.is_file() else ""
    page = ""
    for quality in QUALITIES:
        page = _page(run, results, settings, quality)
        if len(page) < LARGEST:
            break
    atomic_write_text(run / "report.html", page)
    return run / "report.html"


def _page(run: Path, results: Mapping[str, Any], settings: str, quality: tuple[int, int]) -> str:
    held_out = {
        name: scores
        for name, scores in results.items()
        if isinstance(scores, Mapping) and "images" in scores
    }
    config = parse_yaml(settings) or {}
    sections = {
        title: f'<p class="note">{note}</p>{_inlined(run / name, title, quality)}'
        for name, (title, note) in IMAGES.items()
        if (run / name).is_file()
    }
    for role in reversed(held_out):  # test before val
        sections[f"Scores of {role}"] = scores_as_html(held_out[role])
    if config:
        sections["Commands"] = f"<pre>{escape(_commands(run, config))}</pre>"
        sections["Settings"] = (
            "<details><summary>config.yaml, all"
            f" settings</summary><pre>{escape(settings)}</pre></details>"
        )
    sections["Run"] = table(
        ("", ""),
        [
            (escape(words(name)), shown(value))
            for name, value in results.items()
            if name not in held_out
        ],
    )
    title = escape(run.resolve().name)
    links = " ".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections)
    body = "".join(
        f'<h2 id="{_anchor(name)}">{escape(name)}</h2>\n{content}\n'
        for name, content in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
        f' content="width=device-width"><title>{title}</title>\n'
        f"<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        f"{_headline(config, held_out, results)}<nav>{links}</nav>\n{body}</body></html>\n"
    )


def _headline(
    config: Mapping[str, Any], held_out: Mapping[str, Any], results: Mapping[str, Any]
) -> str:
    """What was trained on what, and the few numbers that are asked for first."""
    model, data = config.get("model", {}), config.get("data", {})
    line = (
        f"{model.get('name')}, basis {model.get('basis')}, on {data.get('root')}" if model else ""
    )
    tiles = []
    for role, scores in reversed(held_out.items()):
        single = scores.get("per_image", {}).get("mean_iou")
        tiles += [
            (f"{role}: {words(name)}", shown(scores[name]))
            for name in ("mean_iou", "mean_dice", "top1", "mean_f1")
            if name in scores
        ]
        tiles += (
            [(f"{role}: {words('mean_iou')} per image", shown(single))]
            if "per_image" in scores
            else []
        )
        tiles.append((f"images in {role}", shown(scores["images"])))
    tiles += [
        (words(name), shown(results[name]))
        for name in ("parameters", "epochs", "best_epoch", "seconds")
        if name in results
    ]
    none = (
        ""
        if held_out
        else (
            '<p class="note">There was no val or test split: nothing was measured, and the samples'
            " are training images.</p>"
        )
    )
    boxes = "".join(
        f'<div class="tile"><b>{value}</b>{escape(name)}</div>' for name, value in tiles
    )
    return f'<p class="note">{escape(line)}</p>{none}<div class="tiles">{boxes}</div>\n'


def _commands(run: Path, config: Mapping[str, Any]) -> str:
    """What can be done with the run, as lines for a shell."""
    folder, best = (
        shlex.quote(str(config.get("run_dir", run))),
        shlex.quote(str(Path(config.get("run_dir", run)) / "best")),
    )
    if "loss" not in config.get("training", {}):  # a classifier
        return (
            f"# go on after an interruption\npython tools/train_cls.py --resume --run_dir {folder}"
        )
    lines = [
        "# masks for images: a file, a folder, or a pattern in quotes",
        f"python tools/predict.py --checkpoint {best} --input IMAGES --output masks",
        "# scores of a split",
        f"python tools/evaluate.py --checkpoint {best} --split {_split(config)}",
        "# go on after an interruption",
        f"python tools/train_seg.py --resume --run_dir {folder}",
    ]
    return "\n".join(lines)


def _split(config: Mapping[str, Any]) -> str:
    data = config.get("data", {})
    return " ".join(
        shlex.quote(name)
        for name in data.get("test") or data.get("val") or data.get("train") or ["test"]
    )


def _inlined(path: Path, title: str, quality: tuple[int, int]) -> str:
    """An <img> that holds the image itself."""
    content, kind = path.read_bytes(), "png"
    if len(content) > AS_PNG:
        stream, kind = io.BytesIO(), "jpeg"
        with Image.open(path) as image:
            image.convert("RGB").reduce(quality[1]).save(
                stream, "JPEG", quality=quality[0], subsampling=0
            )
        content = stream.getvalue()
    return (
        f'<img alt="{escape(title)}"'
        f' src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
    )


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
