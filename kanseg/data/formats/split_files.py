"""Split files, which list the samples of a split, and groups.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from kanseg.data.formats.issues import Issue, issue_of_names
from kanseg.data.io.images import IMAGE_SUFFIXES
from kanseg.data.names import nfc
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import parse_csv, read_text
from kanseg.utils.registry import nearest

# Names of folders that hold a split, in small letters.
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
OTHER_TEXTS = ("readme", "license", "licence", "classes", "requirements", "labelmap")


def split_of_folders(parts: Iterable[str]) -> str:
    """Return the split that the first of some nested folders is named after; "" if none is."""
    for part in parts:
        if part.lower() in SPLIT_FOLDERS:
            return SPLIT_FOLDERS[part.lower()]
    return ""


def list_split_files(folder: Path) -> list[Path]:
    """Return the NAME.txt files of a folder that may list the samples of a split."""
    found = []
    for path in sorted(folder.glob("*.txt")):
        if path.stem.lower() not in OTHER_TEXTS and not path.name.startswith("."):
            found.append(path)
    return found


def read_split_files(
    files: Iterable[Path], images: Mapping[str, Path], root: Path, *, image_folder: str = "images"
) -> tuple[dict[str, list[str]], dict[str, tuple[Issue, ...]]]:
    """Read lists of file stems, one per line.

    Args:
        files: the lists; the stem of each is the name of its split.
        images: stem -> file of all images.
        root: of the data set; issues name files relative to it.
        image_folder: where the images are, for messages.

    Returns:
        (name of a split -> the stems in its file that have an image, in its order and without
        duplicates; name of a split -> problems of its file). A file that cannot be decoded is only
        in the second.
    """
    stems: dict[str, list[str]] = {}
    problems: dict[str, tuple[Issue, ...]] = {}
    for path in files:
        file = path.relative_to(root).as_posix()
        try:
            lines = read_text(path).splitlines()
        except InputError as error:
            problems[path.stem] = (Issue("split_encoding", file, error.reason),)
            continue
        listed = [nfc(line.strip()) for line in lines if line.strip()]
        stems[path.stem] = [stem for stem in dict.fromkeys(listed) if stem in images]
        found = _problems_of_list(file, listed, images, image_folder)
        if found:
            problems[path.stem] = tuple(found)
    return stems, problems


def _problems_of_list(
    file: str, listed: list[str], images: Mapping[str, Path], image_folder: str
) -> list[Issue]:
    """Return the problems of the stems in a split file."""
    problems = []
    paths = [stem for stem in listed if "/" in stem or "\\" in stem or stem in (".", "..")]
    if paths:
        reason = translate(
            "{count} of {total} lines are paths, which are not allowed; write file stems",
            count=len(paths),
            total=len(listed),
        )
        problems.append(issue_of_names("split_path", file, reason, paths))
    known = {*images, *paths}
    unknown = [stem for stem in listed if stem not in known]
    if unknown:
        hint = nearest(unknown[0], images)
        if all(Path(stem).suffix.lower() in IMAGE_SUFFIXES for stem in unknown):
            hint = translate("; write stems, without suffixes")
        reason = translate(
            "{count} of {total} names have no image in {folder}/{hint}",
            count=len(unknown),
            total=len(listed),
            folder=image_folder,
            hint=hint,
        )
        problems.append(issue_of_names("split_unknown", file, reason, unknown))
    repeated = sorted(stem for stem, count in Counter(listed).items() if count > 1)
    if repeated:
        reason = translate("{count} names are listed twice", count=len(repeated))
        problems.append(issue_of_names("split_repeated", file, reason, repeated))
    return problems


def read_groups(root: Path) -> dict[str, str] | None:
    """Read `root/groups.csv` as name -> group; None without that file.

    Raises:
        InputError: it cannot be parsed, has no line NAME,GROUP, or a name is in two groups.
    """
    table = root / "groups.csv"
    if not table.is_file():
        return None
    found: dict[str, str] = {}
    for row in parse_csv(read_text(table), table):
        if len(row) < 2:
            continue
        name, group = nfc(row[0].strip()), row[1].strip()
        if found.setdefault(name, group) != group:
            raise InputError(
                "{name!r} is in two groups, {found!r} and {group!r}; keep one line",
                name=name,
                found=found[name],
                group=group,
                where=table,
            )
    if not found:
        raise InputError("has no line NAME,GROUP, separated by a comma", where=table)
    return found
