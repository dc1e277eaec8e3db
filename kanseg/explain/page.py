"""explain.html: a self-contained page of what a trained network has learned, on some images."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kanseg.data.io.images import decode_image
from kanseg.data.overlay import colorize
from kanseg.explain.curves import LayerCurves, function_curves, function_title
from kanseg.explain.figures import draw_curves_grid, draw_response
from kanseg.explain.formulas import layer_formulas
from kanseg.explain.health import LayerHealth, network_health
from kanseg.explain.heatmaps import (
    Heatmap,
    contribution_maps,
    logit_of_class,
    rgb_url,
    saliency_maps,
)
from kanseg.explain.pruning.figure import curve_figure
from kanseg.explain.response import InputResponse, input_response
from kanseg.explain.saliency import default_layers
from kanseg.explain.source import read_input, some_images
from kanseg.inference.exported import ExportedNetwork
from kanseg.inference.loading import TrainedNetwork, load_checkpoint
from kanseg.inference.predictor import decide, to_probabilities, usable_device
from kanseg.layers.inspection.curves import Curves
from kanseg.models.operations import num_parameters, preserve_state
from kanseg.utils.errors import InputError
from kanseg.utils.html import InlineImage, jpeg_url, png_url, render_page
from kanseg.utils.installation import install
from kanseg.utils.io import atomic_write_text
from kanseg.utils.iteration import evenly
from kanseg.utils.language import translate
from kanseg.utils.reading import read_json
from kanseg.utils.text import one_line
from kanseg.visualization.figures import figure_png
from kanseg.visualization.report.page import EXPLANATION, draw_report

TEMPLATE = Path(__file__).parent / "templates" / "explain.html"
SHOWN_SIDE = 640  # longer side of an image on the page
MAX_CLASSES = 3  # of an image that have maps
MAX_LAYERS = 24  # with curves
MAX_PNG = 400_000  # bytes of a figure; larger ones become JPEG
PANELS = 12  # functions of a layer that are drawn: the strongest
TOP = 8  # functions of a layer that are listed with their contribution


class ShownImage(NamedTuple):
    """An image on the page, with the maps of each of its classes."""

    name: str
    url: str
    width: int
    height: int
    classes: dict[str, list[Heatmap]]


class FunctionRow(NamedTuple):
    """A function in the table of its layer: its share of the variance, and its formula."""

    name: str
    share: str
    formula: str
    r2: str
    words: str


class CurvesSection(NamedTuple):
    """The figure of a layer's functions, and a table of the strongest ones."""

    layer: str
    image: InlineImage
    strongest: list[FunctionRow]
    count: int


class Pruning(NamedTuple):
    """The curve of `kanseg prune`, and its points: names of the columns, and rows of texts."""

    image: InlineImage
    header: list[str]
    rows: list[list[str]]


def explain_checkpoint(
    checkpoint: Path,
    images: str,
    output: Path | None = None,
    *,
    layers: Sequence[str] = (),
    max_images: int = 32,
    shown: int = 4,
    occlude: bool = False,
    device: str | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Write a page about a trained network: the health of its layers, their curves with the inputs
    on these images, and where it looked.

    Args:
        checkpoint: a checkpoint, a run folder, or a folder of `save_pretrained`.
        images: a file, a folder or a glob pattern.
        output: the page; by default `explain.html` in the run folder of the checkpoint, to which
            report.html gets a link.
        layers: names of layers for Grad-CAM; by default the deepest, and the last one before the
            logits.
        max_images: number of images for curves and health, evenly spaced over all.
        shown: number of images on the page.
        occlude: add occlusion maps, for which the network runs 64 times on each image.
        device: torch device; by default a GPU if there is one.
        log: called with a line about each part that is left out.

    Raises:
        InputError: a checkpoint that cannot be loaded or is an exported file, no images, or an
            unknown layer; layers, but the package grad-cam is not installed.
    """
    if max_images < 1 or shown < 1:
        raise InputError("max_images and shown must be at least 1")
    trained = load_checkpoint(checkpoint)
    network = trained.model
    if isinstance(network, ExportedNetwork):
        raise InputError(f"{checkpoint} is an exported file, whose layers are hidden: give the run")
    network.to(usable_device(device)).eval()
    paths = some_images(images, max_images)
    inputs = [read_input(path, trained.preprocess) for path in paths]
    place = next(network.parameters()).device
    batches = [tensor.to(place) for _, tensor in inputs]
    max_value = 65535 if decode_image(paths[0]).dtype == np.uint16 else 255
    notes: list[str] = []
    if not layers and find_spec("pytorch_grad_cam") is None:
        notes.append(translate("Grad-CAM is left out: {command}", command=install("explain")))
    elif not layers:
        layers = default_layers(network, batches[0])
    maps = []
    for index in evenly(range(len(paths)), shown):
        view, _ = inputs[index]
        classes = _maps_of_classes(trained, batches[index], layers, occlude, notes)
        maps.append(_shown_image(paths[index].name, view, classes))
    notes = list(dict.fromkeys(notes))
    for note in notes:
        log(note)
    run = run_folder(checkpoint)
    page = output or run / EXPLANATION
    text = render(
        title=translate("What {name} has learned", name=run.resolve().name),
        trained=trained,
        health=network_health(network, batches),
        curves=function_curves(network, batches),
        response=_response(trained, max_value),
        images=maps,
        num_images=len(paths),
        pruning=find_pruning(run, trained.digest),
        notes=notes,
        has_report=(page.parent / "report.html").is_file(),
    )
    atomic_write_text(page, text)
    if page.resolve() == (run / EXPLANATION).resolve() and (run / "report.html").is_file():
        draw_report(run)  # with a link to the page
    return page


def render(
    *,
    title: str,
    trained: TrainedNetwork,
    health: Sequence[LayerHealth],
    curves: Sequence[LayerCurves],
    response: InputResponse | None,
    images: Sequence[ShownImage],
    num_images: int,
    pruning: Pruning | None = None,
    notes: Sequence[str] = (),
    has_report: bool = False,
) -> str:
    """The text of the page."""
    functions = sum(layer.num_functions for layer in health)
    tiles = [
        (translate("Layers with functions"), f"{len(health):,}"),
        (translate("Functions"), f"{functions:,}"),
        (translate("Parameters"), f"{num_parameters(trained.model):,}"),
        (translate("Images"), f"{num_images:,}"),
    ]
    sections = [translate("Where it looked"), translate("Health"), translate("Curves")]
    first_layer = None
    if response is not None:
        sections.append(translate("First layer"))
        first_layer = _inline(draw_response(response), translate("Response of the first layer"))
    if pruning is not None:
        sections.append(translate("Pruning"))
    modules = dict(trained.model.named_modules())
    drawn = [_curves_section(layer, modules[layer.layer]) for layer in curves[:MAX_LAYERS]]
    return render_page(
        TEMPLATE,
        title=title,
        tiles=tiles,
        sections=sections,
        images=images,
        viewer=[_plain(image) for image in images],
        health=[_health_row(layer) for layer in health],
        curves=drawn,
        first_layer=first_layer,
        note_of_first_layer="" if response is None else response.note,
        pruning=pruning,
        more_layers=max(0, len(curves) - MAX_LAYERS),
        notes=notes,
        has_report=has_report,
    )


def run_folder(checkpoint: Path) -> Path:
    """The run of a checkpoint `RUN/best` or `RUN/checkpoints/STEP`; otherwise the folder itself."""
    if checkpoint.name in ("best", "last"):
        return checkpoint.parent
    if checkpoint.parent.name == "checkpoints":
        return checkpoint.parent.parent
    return checkpoint


def find_pruning(run: Path, digest: str) -> Pruning | None:
    """Read the pruning curve of the weights of this digest, which `kanseg prune` has written below
    the folder of their run; None if there is none.
    """
    for file in sorted(run.glob("*/curve.json")):
        content = read_json(file)
        if content.get("weights") == digest:
            return _pruning_of(content)
    return None


def _pruning_of(content: dict[str, Any]) -> Pruning:
    header = [
        translate("Criterion"),
        translate("Kept"),
        translate("Parameters"),
        translate("Milliseconds"),
        str(content["score"]),
        translate("Fine-tuned"),
    ]
    criteria = {
        "": translate("not pruned"),
        "contribution": translate("contribution"),
        "magnitude": translate("magnitude"),
    }
    rows = []
    for point in content["points"]:
        finetuned = point["finetuned"]
        row = [
            criteria[point["criterion"]],
            f"{point['share']:.0%}",
            f"{point['parameters']:,}",
            f"{point['milliseconds']:.2f}",
            f"{point['score']:.4f}",
            "–" if finetuned is None else f"{finetuned:.4f}",
        ]
        rows.append(row)
    alt = translate("Score against parameters and time of the pruned networks, as in the table")
    # Drawn again: the figure of `kanseg prune` can be in another language.
    image = _inline(curve_figure(content["points"], content["score"]), alt)
    return Pruning(image, header, rows)


def _maps_of_classes(
    trained: TrainedNetwork,
    image: Tensor,
    layers: Sequence[str],
    occlude: bool,
    notes: list[str],
) -> dict[str, list[Heatmap]]:
    """The maps of an image, by the name of the class; what is left out is added to the notes."""
    network = trained.model
    with preserve_state(network, training=False), torch.no_grad():
        output = network(image)
    logits = output[0] if isinstance(output, tuple) else output
    if trained.is_classifier:
        labels = logits[0].argsort(descending=True)[:2].tolist()
        prediction = []
    else:
        mask = decide(to_probabilities(logits, trained.task)[0].cpu(), trained.task).numpy()
        labels = _labels_of(mask, len(trained.classes))
        caption = translate("The mask that the network predicts, in the colors of the classes.")
        url = rgb_url(colorize(mask, trained.colors))
        prediction = [Heatmap(translate("Prediction"), caption, url)]
    classes = {}
    for label in labels:
        maps = saliency_maps(network, image, label, layers=layers, occlude=occlude)
        if not trained.is_classifier:
            try:
                logit = logit_of_class(label, logits.shape[1])
                maps += contribution_maps(network, image, logit)
            except InputError as error:
                reason = one_line(error, 300)
                notes.append(translate("Contributions are left out: {reason}", reason=reason))
        classes[trained.classes[label]] = prediction + maps
    return classes


def _labels_of(mask: np.ndarray, num_classes: int) -> list[int]:
    """The foreground classes of a predicted mask that have maps, the largest first; the first
    foreground class if there is none.
    """
    if mask.ndim == 3:
        areas = mask.sum(axis=(1, 2))
        first = 0
    else:
        areas = np.bincount(mask.ravel(), minlength=num_classes)
        areas[0], first = 0, 1
    labels = [int(label) for label in np.argsort(-areas) if areas[label] > 0]
    return labels[:MAX_CLASSES] or [first]


def _shown_image(name: str, view: np.ndarray, classes: dict[str, list[Heatmap]]) -> ShownImage:
    scale = min(1.0, SHOWN_SIDE / max(view.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in view.shape[:2])
    if scale < 1:
        view = cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA)
    return ShownImage(name, jpeg_url(Image.fromarray(view)), width, height, classes)


def _plain(image: ShownImage) -> dict[str, Any]:
    """An image and its maps as plain JSON, for the script of the page."""
    classes = []
    for name, maps in image.classes.items():
        classes.append({"name": name, "maps": [heatmap._asdict() for heatmap in maps]})
    return image._asdict() | {"classes": classes}


def _health_row(layer: LayerHealth) -> dict[str, Any]:
    row = {"layer": layer.layer, "functions": f"{layer.num_functions:,}"}
    for name in ("off_grid", "saturated"):
        share = getattr(layer, name)
        row[name] = "–" if share is None else f"{share:.1%}"
    return row | {"dead": layer.dead, "linear": layer.linear, "advice": layer.advice}


def _response(trained: TrainedNetwork, max_value: float) -> InputResponse | None:
    """The response of the first layer to intensities; None without learned functions."""
    try:
        return input_response(trained.model, trained.preprocess, max_value=max_value)
    except InputError:
        return None


def _curves_section(layer: LayerCurves, module: nn.Module) -> CurvesSection:
    """The figure of a layer, and its strongest functions."""
    total = float(layer.contribution.sum()) or 1.0
    top = _strongest(layer)
    found = layer_formulas(top, module)
    strongest = []
    for index, name in enumerate(top.rows):
        share, r2 = float(top.contribution[index]) / total, found.r2[index]
        formula, words = found.formula[index], found.words[index]
        strongest.append(
            FunctionRow(function_title(name), f"{share:.1%}", formula, f"{r2:.3f}", words)
        )
    alt = translate(
        "Curves of the functions of {layer}, the strongest first: {names}",
        layer=layer.layer,
        names=", ".join(row.name for row in strongest),
    )
    image = _inline(draw_curves_grid(layer, max_panels=PANELS), alt)
    return CurvesSection(layer.layer, image, strongest, layer.num_functions)


def _strongest(layer: LayerCurves) -> LayerCurves:
    """The functions of a layer that contribute most, the strongest first."""
    chosen = layer.contribution.argsort(descending=True)[:TOP]
    x, total, base, functions = layer.curves
    if base is not None:
        base = base.expand_as(total)[chosen]
    return replace(
        layer,
        curves=Curves(x, total[chosen], base, functions[chosen]),
        rows=[layer.rows[index] for index in chosen],
        counts=layer.counts[chosen],
        contribution=layer.contribution[chosen],
    )


def _inline(figure: Any, alt: str) -> InlineImage:
    """A matplotlib figure inside the page."""
    content = figure_png(figure)
    url = png_url(content, max_size=MAX_PNG)
    with Image.open(io.BytesIO(content)) as image:
        return InlineImage(url, *image.size, alt)
