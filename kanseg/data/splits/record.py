"""The samples that a run was trained, validated and tested on, by name and by content.

The record is stored with the run, so that no sample changes its split unnoticed when the data set
changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kanseg.data.names import nfc
from kanseg.data.sample import Mask, Sample
from kanseg.data.splits import SPLITS
from kanseg.utils.errors import InputError

SPLIT = "split.json"  # file in a run folder and in each of its checkpoints
BYTES = 8  # of a digest: in one of 10^9 sets of 200,000 samples, two digests are equal by chance
DIGITS = 2 * BYTES
NOTHING = "0" * DIGITS  # digest of a missing mask
ENDS = 2**16  # bytes read at either end of a file if only its ends are read


@dataclass(frozen=True)
class Content:
    """Digests of a sample: of the bytes of its image, and of its mask (or its label)."""

    image: str
    mask: str = NOTHING


Members = Mapping[str, Content]  # name of a sample -> its content, in the order of the split


@dataclass(frozen=True)
class SplitRecord:
    """The samples of a run.

    Args:
        splits: train, val and test, each name -> content. A name is the path of the image below
            the root of the data set, or the name of the row of an array.
        earlier: (name, content) of samples that the run was trained on before the user accepted a
            change of the data set.
        complete: False for a run that was started without a record: its first training samples are
            unknown.
        sampled: True if digests cover the size and both ends of a file instead of all its bytes.
    """

    splits: Mapping[str, Members]
    earlier: tuple[tuple[str, Content], ...] = ()
    complete: bool = True
    sampled: bool = False

    @property
    def trained(self) -> list[tuple[str, Content]]:
        """(name, content) of all samples that the run was ever trained on."""
        return [*self.earlier, *self.splits.get("train", {}).items()]

    @property
    def samples(self) -> dict[str, Content]:
        """All samples of train, val and test."""
        return all_members(self.splits)

    @property
    def images(self) -> set[str]:
        """Digests of the images of train, val and test."""
        return {content.image for content in self.samples.values()}

    def to_json(self) -> str:
        """Return the record as text for `from_json`; about 50 bytes per sample."""
        content = {
            "kanseg": 1,
            "complete": self.complete,
            "sampled": self.sampled,
            "splits": {name: _pack(members.items()) for name, members in self.splits.items()},
            "earlier": _pack(self.earlier),
        }
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: object) -> SplitRecord:
        """Return the record in a text.

        Raises:
            InputError: the text is not a record; `where` names its file.
        """
        try:
            content = json.loads(text)
            splits = {name: dict(_unpack(packed)) for name, packed in content["splits"].items()}
            return cls(
                splits,
                tuple(_unpack(content["earlier"])),
                bool(content["complete"]),
                bool(content["sampled"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                "damaged, not a record of splits; copy the file from a checkpoint of the run,"
                " or remove it (then the splits cannot be verified)",
                where=where,
            ) from None


def _pack(members: Iterable[tuple[str, Content]]) -> dict[str, Any]:
    """Return members as JSON with all digests in one string: 200,000 samples take 10 MB."""
    names, images, masks = [], [], []
    for name, content in members:
        names.append(name)
        images.append(content.image)
        masks.append(content.mask)
    return {"names": names, "images": "".join(images), "masks": "".join(masks)}


def _unpack(stored: Mapping[str, Any]) -> list[tuple[str, Content]]:
    names, images, masks = stored["names"], stored["images"], stored["masks"]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("names must be strings")
    if not len(images) == len(masks) == DIGITS * len(names):
        raise ValueError("there must be as many digests as names")
    members = []
    for number, name in enumerate(names):
        digits = slice(number * DIGITS, (number + 1) * DIGITS)
        members.append((name, Content(images[digits], masks[digits])))
    return members


def all_members(splits: Mapping[str, Members]) -> dict[str, Content]:
    """Return the members of all splits together."""
    found: dict[str, Content] = {}
    for members in splits.values():
        found |= members
    return found


def read_record(folder: Path) -> SplitRecord | None:
    """Read the record in a checkpoint or run folder; None if there is none, as in older runs.

    Raises:
        InputError: it is damaged.
    """
    path = folder / SPLIT
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    return SplitRecord.from_json(text, path)


def name_of(path: Path | str, root: Path) -> str:
    """Return the path of an image relative to the root, with forward slashes and composed letters,
    so that it is the same on every system.
    """
    path = Path(path)
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return nfc(path.as_posix())


def unit_of(sample: Sample, root: Path) -> str:
    """Return the string that is hashed to split samples: the name of a sample without suffix."""
    return without_suffix(name_of(sample.image, root))


def without_suffix(name: str) -> str:
    """Return a name that stays the same when an image is saved in another format."""
    path = PurePosixPath(name)
    if not path.name:
        return name
    return str(path.with_suffix(""))


def digest(*parts: bytes | np.ndarray) -> str:
    """Return the digest of bytes as hexadecimal digits."""
    state = hashlib.blake2b(digest_size=BYTES)
    for part in parts:
        if isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part).data
        state.update(part)
    return state.hexdigest()


def file_digest(path: Path | str, *, ends_only: bool = False) -> str:
    """Return the digest of a file's bytes, or with `ends_only` of its size and both ends.

    Returns `NOTHING` for a file that cannot be read; the check of the data set reports it.
    """
    state = hashlib.blake2b(digest_size=BYTES)
    try:
        with Path(path).open("rb") as stream:
            if ends_only:
                size = stream.seek(0, 2)
                stream.seek(0)
                state.update(str(size).encode() + stream.read(ENDS))
                stream.seek(max(size - ENDS, 0))
                state.update(stream.read(ENDS))
                return state.hexdigest()
            while block := stream.read(2**20):
                state.update(block)
    except OSError:
        return NOTHING
    return state.hexdigest()


def mask_digest(mask: Mask, of_file: Callable[[Path], str] = file_digest) -> str:
    """Return the digest of a mask: of its files, or of its annotated objects."""
    if mask is None:
        return NOTHING
    if isinstance(mask, Path):
        return of_file(mask)
    if isinstance(mask, tuple):
        parts = [b"-" if path is None else of_file(path).encode() for path in mask]
        return digest(*parts)
    parts = [repr(mask.size).encode()]
    for region in mask.regions:
        parts.append(repr((region.label, region.area, region.crowd)).encode())
        if isinstance(region.shape, Mapping):
            parts.append(json.dumps(region.shape, sort_keys=True, default=str).encode())
        else:
            parts += [np.asarray(p, dtype=np.float64).tobytes() for p in region.shape]
    return digest(*parts)


def sample_contents(
    samples: Iterable[Sample], root: Path, of_file: Callable[[Path], str] = file_digest
) -> dict[Sample, Content]:
    """Return the content of each sample; files are read in threads.

    Args:
        samples: images with their masks.
        root: of the data set.
        of_file: returns the digest of a file, for example from a cache.
    """
    samples = list(samples)

    def content(sample: Sample) -> Content:
        return Content(of_file(sample.image), mask_digest(sample.mask, of_file))

    with ThreadPoolExecutor() as pool:  # reading and hashing release the GIL
        return dict(zip(samples, pool.map(content, samples), strict=True))


def splits_of(data: Any, names: Iterable[str]) -> set[str]:
    """Return those of train, val and test for which the settings name one of the splits `names`."""
    names = set(names)
    return {split for split in SPLITS if names & set(getattr(data, split))}
