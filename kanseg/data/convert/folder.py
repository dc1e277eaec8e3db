"""Write images/, masks/, split files and dataset.yaml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kanseg.data.convert.items import Item, write_dataset_yaml
from kanseg.data.io.colors import IGNORE_INDEX_COLOR, Color
from kanseg.data.io.images import write_png
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.labels import read_label


def write_folder(
    root: Path,
    items: Sequence[Item],
    spec: LabelSpec,
    log: Callable[[str], None],  # noqa: ARG001 - all items can be written
) -> None:
    """Write indexed masks of class indices; of a multilabel task masks/INDEX/NAME.png of 0 and 1.
    Ignored pixels are 255.
    """
    splits: dict[str, list[str]] = {}
    for item in items:
        item.copy_image(root / "images" / item.file)
        if item.sample.has_mask:
            label = read_label(item.sample, spec)
            if spec.task == "multilabel":
                for index, plane in enumerate(label):
                    write_png(root / "masks" / str(index) / f"{item.name}.png", plane)
            else:
                path = root / "masks" / f"{item.name}.png"
                write_png(path, label, palette=_palette(spec))
        for split in item.splits:
            splits.setdefault(split, []).append(item.name)
    for split, names in splits.items():
        (root / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    write_dataset_yaml(root, spec, of_masks=True)


def _palette(spec: LabelSpec) -> list[Color]:
    """Return 256 colors: those of the classes, and gray for ignored pixels."""
    unused = [(0, 0, 0)] * (IGNORE_INDEX - len(spec.classes))
    return [*spec.colors, *unused, IGNORE_INDEX_COLOR]
