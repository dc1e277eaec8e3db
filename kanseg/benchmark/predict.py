"""Pixels per second of `Predictor` on a large image in tiles, relative to the network alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from kanseg.benchmark.measure import Setting, interleaved, ratio
from kanseg.benchmark.report import check_names, yes_or_no
from kanseg.data.preprocess import Preprocess
from kanseg.inference import Predictor
from kanseg.inference.sliding_window import tile_positions
from kanseg.models import create_model, list_bases, list_models
from kanseg.utils.errors import InputError
from kanseg.utils.tables import markdown_table

CLASSES = 2
TARGET = 0.9
PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
HEADER = ["model", "basis", "tiles", "network Mpx/s", "predictor Mpx/s", "ratio", "target", "met"]
EXPLAINED = """predictor: `Predictor` from a uint8 RGB image to a mask (tiling, normalization,
blending, argmax). network: the network alone on the same tiles in the same batches, already
normalized and on the device. Pixels are those of all tiles, overlap included. ratio: predictor /
network, median of the rounds ± half the interquartile range."""
Row = dict[str, object]


@dataclass(frozen=True)
class PredictCase:
    """Options of the image and its tiles.

    Args:
        size: height and width of the image.
        tile: height and width of the tiles.
        overlap: share of a tile that the next one overlaps.
        batch: tiles per batch.

    Raises:
        InputError: options out of range.
    """

    size: int = 4096
    tile: int = 512
    overlap: float = 0.5
    batch: int = 8

    def __post_init__(self) -> None:
        if min(self.size, self.tile, self.batch) < 1 or not 0 <= self.overlap < 1:
            raise InputError(
                "size, tile and batch must be at least 1 and the overlap from 0 to below 1, got"
                f" {self}"
            )

    def __str__(self) -> str:
        return (
            f"{self.size}x{self.size} pixels, tiles of {self.tile}x{self.tile}, overlap"
            f" {self.overlap:g}, {self.batch} at once"
        )


def predict_rows(
    names: Sequence[str],
    bases: Sequence[str],
    case: PredictCase,
    setting: Setting,
    options: dict[str, int] | None = None,
) -> Iterator[Row]:
    """Measure each network and basis; `options` are arguments of `create_model`.

    Raises:
        InputError: an unknown name or basis.
    """
    check_names("model", list_models("segmentation"), names)
    check_names("basis", list_bases(), bases)
    for name in names:
        for basis in bases:
            model = create_model(name, 3, CLASSES, basis=basis, **(options or {}))
            yield {"model": name, "basis": basis} | _measured(model, case, setting)


def _measured(model: nn.Module, case: PredictCase, setting: Setting) -> Row:
    colors = [(0, 0, 0), (255, 255, 255)]
    predictor = Predictor(
        model,
        Preprocess(),
        classes=["a", "b"],
        colors=colors,
        task="multiclass",
        tile=(case.tile, case.tile),
        overlap=case.overlap,
        batch_size=case.batch,
        precision=PRECISION[setting.dtype],
        device=setting.device,
    )
    image = np.random.default_rng(0).integers(0, 256, (case.size, case.size, 3), dtype=np.uint8)
    rows, columns, height, width = tile_positions(
        (case.size, case.size), predictor.tile, case.overlap
    )
    count = len(rows) * len(columns)
    sizes = [min(case.batch, count - start) for start in range(0, count, case.batch)]
    # The time does not depend on the pixels, so all tiles of the bare network are the same.
    tile = predictor.preprocess.normalize(image[:height, :width])
    tiles = tile.repeat(case.batch, 1, 1, 1).to(predictor.device)

    def bare() -> None:
        with torch.inference_mode(), setting.autocast():
            for size in sizes:
                predictor.model(tiles[:size])

    times = interleaved({"network": bare, "predictor": lambda: predictor(image)}, setting)
    pixels = count * height * width
    found = {key: pixels / 1e3 / float(np.median(each)) for key, each in times.items()}
    share = ratio(times["network"], times["predictor"])
    return {
        "tiles": count,
        "network_mpx": found["network"],
        "predictor_mpx": found["predictor"],
        "ratio": share.median,
        "spread": share.spread,
    }


def predict_table(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table; `EXPLAINED` describes the columns."""
    lines = []
    for row in rows:
        lines.append(
            [
                str(row["model"]),
                str(row["basis"]),
                str(row["tiles"]),
                f"{row['network_mpx']:.2f}",
                f"{row['predictor_mpx']:.2f}",
                f"{row['ratio']:.2f} ± {row['spread']:.2f}",
                f"{TARGET:g}",
                yes_or_no(round(row["ratio"], 2) >= TARGET),
            ]
        )
    return markdown_table(HEADER, lines, text_columns=2)
