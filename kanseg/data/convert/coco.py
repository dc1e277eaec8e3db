"""Write images/ and COCO annotations of each split."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from kanseg.data.convert.items import Item, regions_of, write_dataset_yaml
from kanseg.data.formats.coco import PREFIX
from kanseg.data.io.annotation_files import Coco
from kanseg.data.label_spec import LabelSpec
from kanseg.data.labels import read_label
from kanseg.data.splits import SPLITS


def write_coco(
    root: Path, items: Sequence[Item], spec: LabelSpec, log: Callable[[str], None]
) -> None:
    """Write annotations/SPLIT.json (of other names than train, val and test instances_SPLIT.json):
    an annotation for each connected region, exactly its pixels; ignored pixels are crowds.
    """
    files: dict[str, Coco] = {}
    left_out = 0
    for item in items:
        if not item.sample.has_mask or not item.splits:
            left_out += 1
            continue
        item.copy_image(root / "images" / item.file)
        label = read_label(item.sample, spec)
        found, ignored = regions_of(label, spec.task)
        for split in item.splits:
            content = files.setdefault(split, Coco(spec.classes, spec.task))
            content.add(item.file, label.shape[-2:], found, crowds=ignored)
    if left_out:
        log(f"left out: {left_out} images without a mask or in no split")
    folder = root / "annotations"
    folder.mkdir(exist_ok=True)
    for split, content in files.items():
        name = f"{split}.json" if split in SPLITS else f"{PREFIX}{split}.json"
        (folder / name).write_text(json.dumps(content.content()), encoding="utf-8")
    write_dataset_yaml(root, spec)
