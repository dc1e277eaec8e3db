"""Write a data set in another layout:

kanseg convert SOURCE DESTINATION --to folder [data settings]

Reads any layout that a training reads (data/README.md lists them) and writes
  folder   images/, masks/ (indexed PNG), split files and dataset.yaml
  coco     images/ and annotations/train.json, ...
  labelme  train/NAME.json beside train/NAME.png, ..., and labels.txt
Masks keep every pixel, samples their split, and images are copied byte for byte. DESTINATION must
not exist or be empty; it is written completely or not at all. The data settings are those of an
experiment (--format, --task, --classes, --mask_values, --palette, ...); --skip_bad true leaves out
samples that cannot be read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from kanseg.config import DataConfig
from kanseg.config.parser import command_line, with_lists
from kanseg.utils.text import printable

LAYOUTS = ("folder", "coco", "labelme")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the data set and write it."""
    parser = command_line(__doc__, kind=DataConfig)
    parser.add_argument("source", help="folder of the data set")
    parser.add_argument("destination", help="folder to write; it must not exist, or be empty")
    parser.add_argument("--to", choices=LAYOUTS, default="folder", help="layout to write")
    words = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args(with_lists(words, prefix=""))
    settings = {field.name: given[field.name] for field in fields(DataConfig)}
    data = DataConfig(**settings | {"root": given.source})
    from kanseg.data import convert, open_data

    index = open_data(data, log=_log)
    target = Path(given.destination)
    count = convert(index, target, to=given.to, skip_bad=data.skip_bad, log=_log)
    print(f"{count} images written to {given.destination} as {given.to}")


def _log(line: str) -> None:
    print(printable(line, line=True), file=sys.stderr)
