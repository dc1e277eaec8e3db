"""Write the files of a prediction atomically: mask, overlay, probabilities, uncertainty, novelty
and polygons.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from kanseg.data.io.annotation_files import labelme_content
from kanseg.data.io.decode_errors import decoder_errors
from kanseg.data.io.images import read_mask_values, write_png
from kanseg.data.io.outlines import Region, regions
from kanseg.data.overlay import overlay
from kanseg.inference.files.geotiff import geo_transform
from kanseg.inference.files.polygons import geojson
from kanseg.inference.segmenter import Prediction, Segmenter
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write, atomic_write_text

# Folders below the output.
OVERLAYS = "overlays"
PROBABILITIES = "probabilities"
UNCERTAINTY = "uncertainty"
NOVELTY = "novelty"
POLYGONS = "polygons"
ANNOTATIONS = "annotations.json"  # of all images, as COCO
PROBABILITY_FILES = ("npz", "png")
POLYGON_FILES = ("coco", "geojson", "labelme")
POLYGON_SUFFIXES = {"geojson": ".geojson", "labelme": ".json"}  # of one file per image
LARGEST_NOVELTY = 0.5  # that novelty/NAME.png distinguishes
LARGEST_VARIANCE = 0.25  # of values between 0 and 1


@dataclass(frozen=True)
class Outputs:
    """Files to write beside the masks.

    Args:
        overlays: `overlays/NAME.png`, the image with its classes tinted.
        probabilities: "npz": `probabilities/NAME.npz` of probabilities (N, H, W) float16 and the
            names of the classes; "png": `probabilities/CLASS/NAME.png`, 255 for 1; None for none.
        uncertainty: `uncertainty/NAME.npz` (`Prediction.uncertainty`, float32) and `NAME.png`: 255
            for the largest possible value; a variance is drawn as standard deviation, 255 for 0.5.
        novelty: `novelty/NAME.npz` (`Prediction.novelty`, float32) and `NAME.png`, 255 for 0.5 and
            above; the predictor must have its `novelty`.
        polygons: "coco": `annotations.json` of all images; "geojson": `polygons/NAME.geojson`;
            "labelme": `polygons/NAME.json`, which labelme opens with the image; None for none.
    """

    overlays: bool = True
    probabilities: str | None = None
    uncertainty: bool = False
    novelty: bool = False
    polygons: str | None = None

    def __post_init__(self) -> None:
        choices = {"probabilities": PROBABILITY_FILES, "polygons": POLYGON_FILES}
        for key, known in choices.items():
            value = getattr(self, key)
            if value is not None and value not in known:
                raise InputError(
                    "{key} must be one of {known}, got {value!r}",
                    key=key,
                    known=", ".join(known),
                    value=value,
                )


class OutputWriter:
    """Writes the files of one image after the other.

    Args:
        root: folder for all files.
        predictor: gives classes, colors, task and `num_views`.
        outputs: what to write beside the masks.
    """

    def __init__(self, root: Path, predictor: Segmenter, outputs: Outputs):
        self.root, self.outputs = root, outputs
        self.classes, self.colors = predictor.classes, predictor.colors
        self.task, self.num_views = predictor.task, predictor.num_views
        self.class_folders = class_folders(predictor.classes)

    def mask_paths(self, name: str, suffix: str = ".png") -> list[Path]:
        """The mask of an image; of a multilabel task one per class, `CLASS/NAME.png`."""
        if self.task == "multilabel":
            return [self.root / folder / f"{name}{suffix}" for folder in self.class_folders]
        return [self.root / f"{name}{suffix}"]

    def paths(self, name: str, suffix: str = ".png") -> list[Path]:
        """All files that are written for an image, the masks last; `suffix` .tif for a large
        one.
        """
        small = suffix == ".png"
        files = []
        if self.outputs.overlays:
            files.append(self.root / OVERLAYS / f"{name}.png")
        if self.outputs.probabilities == "npz" and small:
            files.append(self.root / PROBABILITIES / f"{name}.npz")
        elif self.outputs.probabilities is not None:
            files += self.probability_paths(name, suffix)
        if self.outputs.uncertainty:
            files.append(self.root / UNCERTAINTY / f"{name}{suffix}")
            if small:
                files.append(self.root / UNCERTAINTY / f"{name}.npz")
        if self.outputs.novelty:
            files.append(self.root / NOVELTY / f"{name}{suffix}")
            if small:
                files.append(self.root / NOVELTY / f"{name}.npz")
        if self.outputs.polygons in POLYGON_SUFFIXES:
            files.append(self.polygon_path(name))
        return files + self.mask_paths(name, suffix)

    def polygon_path(self, name: str) -> Path:
        """The file of an image's polygons, if each image has one."""
        return self.root / POLYGONS / f"{name}{POLYGON_SUFFIXES[self.outputs.polygons]}"

    def probability_paths(self, name: str, suffix: str) -> list[Path]:
        """One file per class, `probabilities/CLASS/NAME.png`."""
        folder = self.root / PROBABILITIES
        return [folder / name_of_class / f"{name}{suffix}" for name_of_class in self.class_folders]

    def existing_suffix(self, name: str) -> str | None:
        """The suffix of an image's masks if all of its files exist, else None."""
        for suffix in (".png", ".tif"):
            if all(path.is_file() for path in self.paths(name, suffix)):
                return suffix
        return None

    def write(
        self, name: str, image: np.ndarray, prediction: Prediction, source: Path
    ) -> list[Region]:
        """Write all files of an image, the masks last, so that they exist only if all files do.

        Args:
            name: below the output folder, without a suffix.
            image: (H, W, C).
            prediction: of one image.
            source: the image's file, whose position on the map GeoJSON uses.

        Returns:
            The regions, if polygons are requested.
        """
        label = prediction.label.numpy()
        if self.outputs.overlays:
            write_png(self.root / OVERLAYS / f"{name}.png", self.overlay(image, label))
        if self.outputs.probabilities is not None:
            self._write_probabilities(name, prediction.probabilities.numpy())
        if self.outputs.uncertainty:
            values = prediction.uncertainty.numpy()
            write_npz(self.root / UNCERTAINTY / f"{name}.npz", uncertainty=values)
            drawn = uncertainty_image(values, self.num_views)
            write_png(self.root / UNCERTAINTY / f"{name}.png", drawn)
        if self.outputs.novelty:
            values = prediction.novelty.numpy()
            write_npz(self.root / NOVELTY / f"{name}.npz", novelty=values)
            write_png(self.root / NOVELTY / f"{name}.png", novelty_image(values))
        found = self.write_polygons(name, label, source)
        if self.task == "multilabel":
            for path, mask in zip(self.mask_paths(name), label, strict=True):
                write_png(path, mask * 255)
        else:
            write_png(self.mask_paths(name)[0], label, palette=self.colors)
        return found

    def overlay(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Tint an image (H, W, C) by its mask: (H, W, 3) RGB."""
        return overlay(image, label, self.colors)

    def write_polygons(self, name: str, label: np.ndarray, source: Path) -> list[Region]:
        """Find the regions of a mask and write the file of the image, if requested. The caller
        writes the COCO file, which holds all images.
        """
        if self.outputs.polygons is None:
            return []
        found = list(regions(label, self.task))
        if self.outputs.polygons == "geojson":
            content = geojson(found, self.classes, geo_transform(source))
        elif self.outputs.polygons == "labelme":
            image = path_from(self.polygon_path(name).parent, source)
            content = labelme_content(image, label.shape[-2:], found, self.classes)
        else:
            return found
        target = self.polygon_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(target, json.dumps(content))
        return found

    def read_label(self, name: str, suffix: str) -> np.ndarray:
        """Read the values of masks that were written before."""
        masks = []
        for path in self.mask_paths(name, suffix):
            if suffix == ".png":
                masks.append(read_mask_values(path))
            else:
                with decoder_errors(path):
                    masks.append(tifffile.imread(path))
        if self.task == "multilabel":
            return np.stack(masks) // 255
        return masks[0]

    def _write_probabilities(self, name: str, values: np.ndarray) -> None:
        if self.outputs.probabilities == "npz":
            path = self.root / PROBABILITIES / f"{name}.npz"
            classes = np.array(self.classes)
            write_npz(path, probabilities=values.astype(np.float16), classes=classes)
            return
        for path, plane in zip(self.probability_paths(name, ".png"), values, strict=True):
            write_png(path, to_uint8(plane))


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder name for each class, different from each other and from the folders of outputs.
    Characters that a file system may refuse become `_`.
    """
    taken = {OVERLAYS, PROBABILITIES, UNCERTAINTY, NOVELTY, POLYGONS}
    folders: list[str] = []
    for name in classes:
        folder = re.sub(r"[^\w .-]", "_", name).strip(" .") or "_"
        while folder.casefold() in taken:
            folder += "_"
        folders.append(folder)
        taken.add(folder.casefold())
    return folders


def path_from(folder: Path, file: Path) -> str:
    """The path of a file relative to a folder, with slashes; absolute on another drive."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:
        return file.absolute().as_posix()


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Scale values in [0, 1] to uint8, 255 for 1."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def uncertainty_image(values: np.ndarray, num_views: int) -> np.ndarray:
    """Draw uncertainty as uint8: the entropy of a single view, or the variance over several as
    standard deviation, 255 for the largest possible.
    """
    if num_views > 1:
        values = np.sqrt(values / LARGEST_VARIANCE)
    return to_uint8(values)


def novelty_image(values: np.ndarray) -> np.ndarray:
    """Draw novelty as uint8, 255 for half of the functions and above."""
    return to_uint8(values / LARGEST_NOVELTY)


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    """Write a compressed npz file atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    return path
