"""The regions of masks as annotation files of other tools: COCO and labelme."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from kanseg.data.io.outlines import Region, filled, run_lengths

LABELME_VERSION = "5.7.0"  # of the form that is written
LABELME_IGNORE = "__ignore__"  # labelme's name of pixels that a training leaves out


class Coco:
    """Collects COCO annotations of all images: a polygon for a region without holes, else run
    lengths, since COCO's polygons know no holes.

    Args:
        classes: names of the classes.
        task: of the masks; the background (index 0), if there is one, is not a category.
    """

    def __init__(self, classes: Sequence[str], task: str):
        first = 0 if task == "multilabel" else 1
        self._shift = 1 - first  # COCO's categories begin at 1
        self.categories = []
        for index, name in enumerate(classes[first:], first):
            self.categories.append({"id": index + self._shift, "name": name})
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        shape: tuple[int, int],
        found: Sequence[Region],
        crowds: Sequence[Region] = (),
    ) -> None:
        """Add an image with its file name, size (H, W), regions, and crowds (ignored regions)."""
        number = len(self.images) + 1
        height, width = shape
        self.images.append({"id": number, "file_name": name, "height": height, "width": width})
        for region in found:
            self._annotate(number, region, _coco_outline(region, shape), crowd=0)
        for region in crowds:
            self._annotate(number, region, _coco_runs(region, shape), crowd=1)

    def _annotate(
        self, image: int, region: Region, outline: list | dict[str, Any], *, crowd: int
    ) -> None:
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image,
                "category_id": region.label + self._shift,
                "segmentation": outline,
                "area": region.area,
                "bbox": list(region.box),
                "iscrowd": crowd,
            }
        )

    def content(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "info": {"description": "written by kanseg"},
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
        }


def _coco_outline(region: Region, shape: tuple[int, int]) -> list[list[int]] | dict[str, Any]:
    if len(region.rings) == 1:
        return [region.rings[0].ravel().tolist()]
    return _coco_runs(region, shape)


def _coco_runs(region: Region, shape: tuple[int, int]) -> dict[str, Any]:
    return {"counts": run_lengths(filled(region), region.box, shape), "size": list(shape)}


def labelme_content(
    image: str,
    shape: tuple[int, int],
    found: Sequence[Region],
    classes: Sequence[str],
    ignored: Sequence[Region] = (),
) -> dict[str, Any]:
    """Return the content of labelme's JSON file of an image: a polygon for a region without holes,
    else a mask, since labelme's polygons know no holes.

    The keys are those of labelme's `write_label_file` (labelme/_label_file.py).

    Args:
        image: path of the image, relative to the folder of the JSON file.
        shape: (H, W) of the upright image.
        found: the regions.
        classes: names of the classes.
        ignored: regions that a training leaves out.
    """
    shapes = [_labelme_shape(region, classes[region.label]) for region in found]
    shapes += [_labelme_shape(region, LABELME_IGNORE) for region in ignored]
    return {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": shape[0],
        "imageWidth": shape[1],
    }


def _labelme_shape(region: Region, label: str) -> dict[str, Any]:
    kind, points, mask = "polygon", region.rings[0].tolist(), None
    if len(region.rings) > 1:
        left, top, width, height = region.box
        kind, points = "mask", [[left, top], [left + width - 1, top + height - 1]]
        mask = _png_base64(filled(region))
    return {
        "label": label,
        "points": [[float(x), float(y)] for x, y in points],
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": mask,
    }


def _png_base64(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
