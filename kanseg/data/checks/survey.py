"""The layout of a data set in the folder form, read without stopping at the first fault."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kanseg.data.checks.kinds import Issue
from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.data.sample import Sample
from kanseg.data.splits import NO_SPLITS, SPLITS
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_text
from kanseg.utils.registry import nearest

SHOWN = 5  # names in a line; the details have more
DETAILED = 1000


@dataclass
class Survey:
    """Images and masks by stem, for each folder that holds images/, and what is wrong with the
    layout.
    """

    root: Path
    images: dict[Path, dict[str, Path]] = field(default_factory=dict)
    masks: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)
    listed: dict[str, list[str]] = field(
        default_factory=dict
    )  # split file -> the images in it that exist

    @property
    def is_folder_form(self) -> bool:
        """Whether there are images/ folders at all; a set in another format has none that concern
        this survey.
        """
        return bool(self.images)

    def mask_paths(self) -> list[Path]:
        """All mask files."""
        return sorted(
            path for by_stem in self.masks.values() for paths in by_stem.values() for path in paths
        )

    def samples(self) -> dict[Path, list[Sample]]:
        """Every image with the mask of its stem (multilabel: a tuple of masks), by the folder
        that holds images/.
        """
        return {base: self._samples_of(base) for base in self.images}

    def _samples_of(self, base: Path) -> list[Sample]:
        folders = _class_folders(base / "masks")
        return [
            Sample(stem, path, _one_or_all(self.masks[base].get(stem, []), folders))
            for stem, path in self.images[base].items()
        ]

    def splits(self) -> dict[str, list[Sample]]:
        """The samples by split file, or by the folders train/, val/, test/."""
        samples = self.samples()
        if self.root not in samples:
            return {base.name: some for base, some in samples.items()}
        by_name = {sample.name: sample for sample in samples[self.root]}
        return {
            name: [by_name[stem] for stem in dict.fromkeys(stems)]
            for name, stems in self.listed.items()
        }


def survey(root: Path, chosen: Collection[str]) -> Survey:
    """Look at names only: two files of a stem, masks without images, split files.

    Args:
        root: of the data set.
        chosen: the splits that are asked for; faults of others are warnings.
    """
    found = Survey(root)
    bases = (
        [root]
        if (root / "images").is_dir()
        else [root / name for name in SPLITS if (root / name / "images").is_dir()]
    )
    for base in bases:
        found.images[base] = {
            stem: paths[0] for stem, paths in _stems(found, base / "images").items()
        }
        found.masks[base] = defaultdict(list)
        for folder in [base / "masks", *_class_folders(base / "masks")]:
            for stem, paths in _stems(found, folder).items():
                found.masks[base][stem].append(paths[0])
        found.issues += _orphans(found, base)
    if bases == [root]:
        _split_files(found, chosen)
    return found


def _one_or_all(masks: list[Path], folders: list[Path]) -> Path | tuple[Path | None, ...] | None:
    if not folders:
        return masks[0] if masks else None
    return (
        tuple(next((mask for mask in masks if mask.parent == folder), None) for folder in folders)
        if masks
        else None
    )


def _class_folders(masks: Path) -> list[Path]:
    """masks/0, masks/1, ... of a multilabel set, whose masks/ has no files of its own."""
    inside = (
        [path for path in masks.iterdir() if not path.name.startswith(".")]
        if masks.is_dir()
        else []
    )
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in inside):
        return []
    return sorted(
        (path for path in inside if path.is_dir()),
        key=lambda path: (len(path.name) if path.name.isdigit() else 0, path.name),
    )


def _stems(found: Survey, folder: Path) -> dict[str, list[Path]]:
    """Stem (Unicode NFC) -> files of a folder; stems of several files are reported."""
    stems: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            stems[unicodedata.normalize("NFC", path.stem)].append(path)
    for paths in stems.values():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            found.issues.append(
                Issue(
                    "same_stem",
                    _name(found, paths[0]),
                    f"{names} have the same stem; rename or remove all but one",
                )
            )
    return dict(stems)


def _orphans(found: Survey, base: Path) -> list[Issue]:
    images = found.images[base]
    orphans = [
        path for stem, paths in found.masks[base].items() if stem not in images for path in paths
    ]
    return [
        Issue(
            "no_image",
            _name(found, path),
            f"a mask without an image in images/{nearest(path.stem, images)}",
        )
        for path in orphans
    ]


def _split_files(found: Survey, chosen: Collection[str]) -> None:
    for path in sorted(found.root.glob("*.txt")):
        if path.stem.lower() in NO_SPLITS or path.name.startswith("."):
            continue
        asked = path.stem in chosen
        try:
            stems = [
                unicodedata.normalize("NFC", line.strip())
                for line in read_text(path).splitlines()
                if line.strip()
            ]
        except InputError as error:
            found.issues += _as_asked(
                (
                    [Issue("split_encoding", path.name, str(error).removeprefix(f"{path}: "))]
                    if asked
                    else []
                ),
                asked,
            )
            continue
        known = [stem for stem in stems if stem in found.images[found.root]]
        if known or asked or path.stem in SPLITS:  # else it is some other text
            found.listed[path.stem] = known
            found.issues += _as_asked(
                _faults_of_split(path.name, stems, found.images[found.root]), asked
            )


def _as_asked(issues: list[Issue], asked: bool) -> list[Issue]:
    return (
        issues
        if asked
        else [
            Issue("stray_split", issue.file, issue.reason, details=issue.details)
            for issue in issues
        ]
    )


def _faults_of_split(file: str, stems: list[str], images: Mapping[str, Path]) -> list[Issue]:
    paths = [stem for stem in stems if "/" in stem or "\\" in stem or stem in (".", "..")]
    unknown = [stem for stem in stems if stem not in images and stem not in paths]
    repeated = (
        sorted({stem for stem in stems if stems.count(stem) > 1})
        if len(set(stems)) < len(stems)
        else []
    )
    suffixed = bool(unknown) and all(
        Path(stem).suffix.lower() in IMAGE_SUFFIXES for stem in unknown
    )
    hint = (
        "; write stems, without suffixes"
        if suffixed
        else nearest(unknown[0], images)
        if unknown
        else ""
    )
    reasons = {
        "split_path": (
            paths,
            (
                f"{len(paths)} of {len(stems)} lines are paths, which are refused; write plain file"
                " stems"
            ),
        ),
        "split_unknown": (
            unknown,
            f"{len(unknown)} of {len(stems)} names have no image in images/{hint}",
        ),
        "split_repeated": (repeated, f"{len(repeated)} names are listed twice"),
    }
    return [
        Issue(code, file, f"{reason}: {few(names)}", details={"names": names[:DETAILED]})
        for code, (names, reason) in reasons.items()
        if names
    ]


def few(names: Iterable[object]) -> str:
    """`a, b, c, ... (12 in all)`."""
    names = [str(name) for name in names]
    return (
        ", ".join(names)
        if len(names) <= SHOWN
        else f"{', '.join(names[:SHOWN])}, ... ({len(names)} in all)"
    )


def _name(found: Survey, path: Path) -> str:
    return path.relative_to(found.root).as_posix()
