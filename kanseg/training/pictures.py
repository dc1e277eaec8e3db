"""Pictures a person can look at: sample panels and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from kanseg.data import IGNORED, SegmentationDataset, read_picture, write_png
from kanseg.data.drawing import IGNORED_COLOUR, colourise, viewable
from kanseg.inference.evaluate import predicted_labels
from kanseg.training.log import read_log

WRONG, MISSED = (230, 30, 60), (30, 110, 255)
COLUMNS = ("image", "truth", "prediction", "error")
MARGIN, CAPTION = 4, 22


@torch.no_grad()
def draw_samples(
    model: nn.Module,
    dataset: SegmentationDataset,
    run: Path,
    *,
    count: int,
    tile: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> list[Path]:
    """Predict `count` evenly chosen samples and write run/samples/NAME.png (image | truth | prediction | error) and run/overview.png.

    The pictures have the size that the network sees. In `error`, wrong pixels are red on the dimmed picture and ignored ones grey.
    """
    if count < 1:
        return []
    model.eval()
    chosen = sorted({int(i) for i in np.linspace(0, len(dataset) - 1, min(count, len(dataset)))})
    written, rows = [], []
    for index in chosen:
        item = dataset[index]
        predicted = predicted_labels(model, item["image"][None].to(device), tile, task=dataset.info.task, batch_size=4)[0].cpu().numpy()
        sample = dataset.samples[index]
        image = dataset.preprocess.scale(read_picture(sample), name=str(sample.image))
        cells = sample_cells(viewable(image), item["mask"].numpy(), predicted, dataset.info.colours)
        written.append(write_png(run / "samples" / f"{sample.name}.png", sheet([cells], [sample.name], dataset.info.classes, dataset.info.colours)))
        rows.append((cells, sample.name))
    shown = [rows[int(i)] for i in sorted({int(i) for i in np.linspace(0, len(rows) - 1, min(4, len(rows)))})]
    overview = sheet([cells for cells, _ in shown], [name for _, name in shown], dataset.info.classes, dataset.info.colours)
    return [*written, write_png(run / "overview.png", overview)]


def sample_cells(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
    """The four pictures of a sample, (H, W, 3) uint8 each."""
    error = (image * 0.35).astype(np.uint8)
    error[(predicted != truth) & (truth != IGNORED)] = WRONG
    if len(colours) == 2:  # background and one class: what is missed differs from what is made up
        error[(predicted == 0) & (truth == 1)] = MISSED
    error[truth == IGNORED] = IGNORED_COLOUR
    return [image, colourise(truth, colours), colourise(predicted, colours), error]


def sheet(rows: Sequence[Sequence[np.ndarray]], names: Sequence[str], classes: Sequence[str], colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Rows of four cells under captions, with a legend of the classes: (H, W, 3) uint8. Cells are shown 256 pixels wide or so."""
    sizes = [_cell_size(cells[0]) for cells in rows]
    column_width = max(width for width, _ in sizes) + MARGIN
    legend = _legend(classes, colours, 4 * column_width + MARGIN)
    picture = Image.new("RGB", (legend.width, CAPTION + sum(height + CAPTION for _, height in sizes) + legend.height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for column, title in enumerate(COLUMNS):
        draw.text((MARGIN + column * column_width, 3), title, fill="black", font=font)
    top = CAPTION
    for cells, name, size in zip(rows, names, sizes, strict=True):
        for column, cell in enumerate(cells):
            method = Image.Resampling.BILINEAR if column == 0 else Image.Resampling.NEAREST
            picture.paste(Image.fromarray(cell).resize(size, method), (MARGIN + column * column_width, top))
        draw.text((MARGIN, top + size[1] + 2), name, fill="black", font=font)
        top += size[1] + CAPTION
    picture.paste(legend, (0, picture.height - legend.height))
    return np.asarray(picture)


def _cell_size(image: np.ndarray) -> tuple[int, int]:
    """(width, height) of a cell: whole multiples for small pictures, about 256 wide; large pictures shrink to 512."""
    height, width = image.shape[:2]
    factor = max(1, 256 // max(height, width)) if max(height, width) <= 512 else 512 / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _legend(classes: Sequence[str], colours: Sequence[tuple[int, int, int]], width: int) -> Image.Image:
    """Coloured squares with names, in as many lines as they need."""
    font = ImageFont.load_default(14)
    errors = [("made up", WRONG), ("missed", MISSED)] if len(classes) == 2 else [("wrong", WRONG)]
    entries = [*zip(classes, colours, strict=False), *errors, ("ignored", IGNORED_COLOUR)]
    places, x, y = [], MARGIN, 2
    for name, colour in entries:
        needed = 16 + 6 + int(font.getlength(name)) + 14
        if x + needed > width and x > MARGIN:
            x, y = MARGIN, y + CAPTION
        places.append((x, y, name, tuple(colour)))
        x += needed
    picture = Image.new("RGB", (width, y + CAPTION), "white")
    draw = ImageDraw.Draw(picture)
    for x, y, name, colour in places:
        draw.rectangle((x, y + 2, x + 14, y + 16), fill=colour, outline="black")
        draw.text((x + 20, y), name, fill="black", font=font)
    return picture


def draw_curves(log: Path, path: Path, *, monitor: str = "mean_iou") -> Path:
    """Training loss and validation score by epoch, from log.jsonl."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    epochs = [entry for entry in read_log(log) if "train" in entry]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot([e["epoch"] for e in epochs], [e["train"]["loss"] for e in epochs], marker=".", color="tab:blue")
    left.set(title="training loss", xlabel="epoch")
    measured = [e for e in epochs if "val" in e]
    x = [e["epoch"] for e in measured]
    for label in measured[0]["val"].get("iou", ()) if measured else ():
        right.plot(x, [_number(e["val"]["iou"].get(label)) for e in measured], linewidth=1, alpha=0.6, label=f"IoU {label}")
    right.plot(x, [_number(e["val"][monitor]) for e in measured], color="black", marker=".", label=monitor)
    right.set(title="validation" if measured else "no validation split", xlabel="epoch", ylim=(0, 1))
    if measured:
        right.legend(fontsize=7, ncols=2 if len(measured[0]["val"].get("iou", ())) > 6 else 1)
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)
    temporary.replace(path)
    return path


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
