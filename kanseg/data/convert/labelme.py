"""Write a JSON file of labelme beside each image."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kanseg.data.convert.items import Item, regions_of, write_dataset_yaml
from kanseg.data.io.annotation_files import LABELME_IGNORE, labelme_content
from kanseg.data.io.outlines import regions
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.labels import read_label
from kanseg.data.splits import SPLITS


def write_labelme(
    root: Path, items: Sequence[Item], spec: LabelSpec, log: Callable[[str], None]
) -> None:
    """Write SPLIT/NAME.json beside SPLIT/NAME.png and labels.txt: a shape for each connected
    region, exactly its pixels. Pixels that any class ignores are shapes labeled `__ignore__`.
    """
    left_out = 0
    for item in items:
        if not item.sample.has_mask or not item.splits:
            left_out += 1
            continue
        split = next((name for name in SPLITS if name in item.splits), item.splits[0])
        item.copy_image(root / split / item.file)
        label = read_label(item.sample, spec)
        found, _ = regions_of(label, spec.task)
        ignored = (label == IGNORE_INDEX).reshape(-1, *label.shape[-2:]).any(axis=0)
        content = labelme_content(
            item.file,
            label.shape[-2:],
            found,
            spec.classes,
            ignored=list(regions(ignored.astype(np.uint8), "binary")),
        )
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (root / split / f"{item.name}.json").write_text(text, encoding="utf-8")
    if left_out:
        log(f"left out: {left_out} images without a mask or in no split")
    names = [LABELME_IGNORE, *spec.classes]
    if spec.task != "multilabel":
        names[1] = "_background_"
    (root / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    write_dataset_yaml(root, spec)
