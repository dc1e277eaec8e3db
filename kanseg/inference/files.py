"""Picture files -> mask files; a bad file is told and does not stop the others."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from kanseg.data.drawing import overlay
from kanseg.data.images import IMAGE_SUFFIXES, MAX_PIXELS, read_image, write_png
from kanseg.errors import InputError
from kanseg.inference.predictor import Predictor


@dataclass
class Outcome:
    """What became of a list of files."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def find_pictures(source: str) -> list[Path]:
    """The pictures that a file, a folder or a glob pattern means, sorted.

    Raises:
        InputError: nothing is there.
    """
    path = Path(source)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    elif path.is_file():
        found = [path]
    else:
        found = [Path(p) for p in glob.glob(source, recursive=True) if Path(p).is_file()]
    if not found:
        raise InputError(f"{source}: no file, no folder with pictures ({', '.join(s[1:] for s in IMAGE_SUFFIXES)}) and no pattern that matches one")
    return sorted(found)


def output_names(pictures: Sequence[Path]) -> list[str]:
    """A file name for each picture's mask: its stem, or its whole name where two pictures share a stem.

    Raises:
        InputError: two pictures have the same name (from different folders).
    """
    stems = Counter(path.stem for path in pictures)
    names = [path.stem if stems[path.stem] == 1 else path.name.replace(".", "_") for path in pictures]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        same = [str(path) for path, name in zip(pictures, names, strict=True) if name == twice[0]]
        raise InputError(f"{' and '.join(same[:2])} would be written to the same file; predict their folders one by one")
    return [f"{name}.png" for name in names]


def predict_files(
    predictor: Predictor,
    pictures: Sequence[Path],
    output: Path,
    *,
    overlays: bool = True,
    skip_existing: bool = False,
    max_pixels: int = MAX_PIXELS,
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Write `output/NAME.png` (class indices with a palette) for every picture, and `output/overlays/NAME.png`.

    Each file is written whole or not at all. A picture that cannot be read or predicted is told and counted, and the rest goes on.
    """
    outcome = Outcome()
    names = output_names(pictures)
    _refuse_to_overwrite(pictures, [*(output / name for name in names), *(output / "overlays" / name for name in names)])
    (output / "overlays" if overlays else output).mkdir(parents=True, exist_ok=True)
    for path, name in zip(pictures, names, strict=True):
        target = output / name
        if skip_existing and target.is_file():
            outcome.skipped.append(target)
            continue
        try:
            image = read_image(path, max_pixels=max_pixels)
            mask = predictor(image, name=str(path))
            if overlays:
                write_png(output / "overlays" / name, overlay(image, mask, predictor.colours))
            outcome.written.append(write_png(target, mask, palette=predictor.colours))
        except InputError as error:
            outcome.failed.append(str(error))
        except (RuntimeError, MemoryError, OSError, cv2.error) as error:  # out of memory or disk: the next picture may fit
            outcome.failed.append(f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        else:
            continue
        tell(f"failed: {outcome.failed[-1]}")
    return outcome


def _refuse_to_overwrite(pictures: Sequence[Path], targets: Sequence[Path]) -> None:
    """InputError when a mask or an overlay would replace one of the pictures."""
    read = {path.resolve() for path in pictures}
    for target in targets:
        if target.resolve() in read:
            raise InputError(f"{target} is one of the pictures and would be overwritten; choose another --output")
