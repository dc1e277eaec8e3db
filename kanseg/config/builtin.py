"""The experiments that come with kanseg: configs/NAME.yaml, inside the installed package too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanseg.utils.errors import InputError
from kanseg.utils.registry import nearest

_PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path:
    """Return the folder of the configs: in an installed package, or in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def list_configs() -> dict[str, Path]:
    """Return name -> file of the experiments that can be trained."""
    found = {}
    for path in sorted(config_folder().glob("*.yaml")):
        if path.stem != "published":  # scores of others
            found[path.stem] = path
    return found


def find_config(name: str) -> Path:
    """Return a config by its path, or by its name among those that come with kanseg.

    Raises:
        InputError: there is neither such a file nor such a name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = list_configs()
    if name in known:
        return known[name]
    in_package = config_folder().parent / name  # configs/NAME.yaml outside of a checkout
    if name.startswith("configs/") and in_package.is_file():
        return in_package
    raise InputError(
        "no such file, and not the name of a built-in config{hint} (built-in: {known})",
        hint=nearest(path.stem, known),
        known=", ".join(known),
        where=name,
    )


def with_config_files(arguments: Sequence[str]) -> list[str]:
    """Replace built-in names on a command line by files: a first word without -- becomes
    `--config FILE`, and so do the values of --config.
    """
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words.insert(0, "--config")
    for number, word in enumerate(words):
        option, sign, value = word.partition("=")
        if option != "--config":
            continue
        if sign:
            words[number] = f"--config={find_config(value)}"
        elif number + 1 < len(words):
            words[number + 1] = str(find_config(words[number + 1]))
    return words
