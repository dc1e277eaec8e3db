"""What is written for an image: mask, overlay, probabilities, uncertainty, outlines; each file
whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.images import read_mask_values, write_png
from kanseg.data.overlay import overlay, viewable
from kanseg.inference.files.geotiff import geo_transform
from kanseg.inference.files.polygons import Region, geojson, regions
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write, atomic_write_text

OVERLAYS, PROBABILITIES, UNCERTAINTY, POLYGONS = (
    "overlays",
    "probabilities",
    "uncertainty",
    "polygons",
)
PROBABILITY_FILES = ("npz", "png")
POLYGON_FILES = ("coco", "geojson")
LARGEST_VARIANCE = 0.25  # of values between 0 and 1


@dataclass(frozen=True)
class Outputs:
    """What is written beside the masks.

    Args:
        overlays: `overlays/NAME.png`, the image with its classes tinted.
        probabilities: "npz": `probabilities/NAME.npz` of probabilities (N, H, W) float16 and the
            names of the classes; "png": `probabilities/CLASS/NAME.png`, 255 for 1; None for none.
        uncertainty: `uncertainty/NAME.npz` (`Prediction.uncertainty`, float32) and `NAME.png`: 255
            for the largest there can be; of a variance its root is drawn, the standard deviation,
            255 for 0.5.
        polygons: "coco": `annotations.json` of all images; "geojson": `polygons/NAME.geojson`;
            None for none.
    """

    overlays: bool = True
    probabilities: str | None = None
    uncertainty: bool = False
    polygons: str | None = None

    def __post_init__(self) -> None:
        for key, known in (("probabilities", PROBABILITY_FILES), ("polygons", POLYGON_FILES)):
            if getattr(self, key) not in (None, *known):
                raise InputError(
                    f"{key} must be one of {', '.join(known)}, got {getattr(self, key)!r}"
                )


class Writer:
    """Writes what is wanted for one image after the other.

    Args:
        root: folder for all files.
        predictor: whose classes, colors and task are used.
        outputs: what is wanted.
    """

    def __init__(self, root: Path, predictor: Segmenter, outputs: Outputs):
        self.root, self.outputs = root, outputs
        self.classes, self.colors, self.task, self.looks = (
            predictor.classes,
            predictor.colors,
            predictor.task,
            predictor.looks,
        )
        self.folders = class_folders(predictor.classes)

    def masks(self, name: str, suffix: str = ".png") -> list[Path]:
        """The mask of an image; of a multilabel task one for each class, in a folder of
        its name.
        """
        below = (
            [self.root / folder for folder in self.folders]
            if self.task == "multilabel"
            else [self.root]
        )
        return [folder / f"{name}{suffix}" for folder in below]

    def targets(self, name: str, suffix: str = ".png") -> list[Path]:
        """All files that are written for an image, the masks last; `suffix` .tif for a
        large one.
        """
        files = [self.root / OVERLAYS / f"{name}.png"] if self.outputs.overlays else []
        small = suffix == ".png"
        if self.outputs.probabilities == "npz" and small:
            files.append(self.root / PROBABILITIES / f"{name}.npz")
        elif self.outputs.probabilities is not None:
            files += self.probability_maps(name, suffix)
        if self.outputs.uncertainty:
            files += [
                self.root / UNCERTAINTY / f"{name}{end}"
                for end in ([".npz", ".png"] if small else [suffix])
            ]
        if self.outputs.polygons == "geojson":
            files.append(self.root / POLYGONS / f"{name}.geojson")
        return files + self.masks(name, suffix)

    def probability_maps(self, name: str, suffix: str) -> list[Path]:
        """A file for each class."""
        return [self.root / PROBABILITIES / folder / f"{name}{suffix}" for folder in self.folders]

    def existing(self, name: str) -> str | None:
        """The suffix of the masks of an image for which all is there that is wanted, or None."""
        return next(
            (
                suffix
                for suffix in (".png", ".tif")
                if all(path.is_file() for path in self.targets(name, suffix))
            ),
            None,
        )

    def write(
        self, name: str, image: np.ndarray, prediction: Prediction, path: Path
    ) -> list[Region]:
        """Write all for an image; the masks last, so that who finds them finds the rest.

        Args:
            name: below the output folder, without a suffix.
            image: (H, W, C).
            prediction: of it, without the first axis.
            path: its file, whose place on the map is used.

        Returns:
            The regions, where polygons are wanted.
        """
        label = prediction.label.numpy()
        if self.outputs.overlays:
            write_png(self.root / OVERLAYS / f"{name}.png", self.overlay(image, label))
        if self.outputs.probabilities is not None:
            self._write_probabilities(name, prediction.probabilities.numpy())
        if self.outputs.uncertainty:
            values = prediction.uncertainty.numpy()
            write_npz(self.root / UNCERTAINTY / f"{name}.npz", uncertainty=values)
            write_png(
                self.root / UNCERTAINTY / f"{name}.png", uncertainty_image(values, self.looks)
            )
        found = self.outlines(name, label, path)
        maps = label * 255 if self.task == "multilabel" else label[None]
        for target, values in zip(self.masks(name), maps, strict=True):
            write_png(target, values, palette=None if self.task == "multilabel" else self.colors)
        return found

    def overlay(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """(H, W, C) image and its label map -> (H, W, 3) RGB."""
        return (
            blended(image, label, self.colors)
            if self.task == "multilabel"
            else overlay(image, label, self.colors)
        )

    def outlines(self, name: str, label: np.ndarray, path: Path) -> list[Region]:
        """The regions of a label map where they are wanted; GeoJSON is written here."""
        if self.outputs.polygons is None:
            return []
        found = list(regions(label, self.task))
        if self.outputs.polygons == "geojson":
            target = self.root / POLYGONS / f"{name}.geojson"
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(target, json.dumps(geojson(found, self.classes, geo_transform(path))))
        return found

    def read_label(self, name: str, suffix: str) -> np.ndarray:
        """The label map that was written before."""
        maps = [read_values(path) for path in self.masks(name, suffix)]
        return np.stack(maps) // 255 if self.task == "multilabel" else maps[0]

    def _write_probabilities(self, name: str, values: np.ndarray) -> None:
        if self.outputs.probabilities == "npz":
            write_npz(
                self.root / PROBABILITIES / f"{name}.npz",
                probabilities=values.astype(np.float16),
                classes=np.array(self.classes),
            )
            return
        for target, plane in zip(self.probability_maps(name, ".png"), values, strict=True):
            write_png(target, to_bytes(plane))


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder name for each class: its name with what a file system may refuse replaced."""
    reserved = {OVERLAYS, PROBABILITIES, UNCERTAINTY, POLYGONS}
    names: list[str] = []
    for name in classes:
        plain = "".join(c if c.isalnum() or c in " -_." else "_" for c in name).strip(" .") or "_"
        while plain.casefold() in {*reserved, *(other.casefold() for other in names)}:
            plain += "_"
        names.append(plain)
    return names


def blended(
    image: np.ndarray, label: np.ndarray, colors: Sequence[Sequence[int]], *, opacity: float = 0.4
) -> np.ndarray:
    """(H, W, C) image and (N, H, W) of 0 and 1 -> (H, W, 3) RGB: tinted by the mean color of the
    classes there, with the outline of each class.
    """
    rgb = viewable(image)
    count = label.sum(axis=0, dtype=np.int32)
    paint = (
        np.einsum("nhw,nc->hwc", label.astype(np.float32), np.array(colors, np.float32))
        / np.maximum(count, 1)[:, :, None]
    )
    result = np.where(
        count[:, :, None] > 0, np.round(rgb * (1 - opacity) + paint * opacity), rgb
    ).astype(np.uint8)
    for plane, color in zip(label, colors, strict=True):
        inner = cv2.erode(plane, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
        result[(plane > 0) & (inner == 0)] = color
    return result


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] -> uint8, 255 for 1."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def uncertainty_image(values: np.ndarray, looks: int) -> np.ndarray:
    """Variances over several predictions (drawn as standard deviations, 255 for the largest), or
    entropies of one, -> uint8.
    """
    return to_bytes(np.sqrt(values / LARGEST_VARIANCE) if looks > 1 else values)


def read_values(path: Path) -> np.ndarray:
    """(H, W) values of a mask that was written here."""
    if path.suffix == ".png":
        return read_mask_values(path)
    import tifffile

    with decoder_errors(path):
        return tifffile.imread(path)


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    """A compressed npz file, whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    return path
