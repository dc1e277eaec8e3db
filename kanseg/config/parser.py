"""Parse YAML files and command lines into dataclasses of settings. The error for an unknown key
names the nearest known one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from kanseg.config.schema import Config
from kanseg.utils.errors import InputError
from kanseg.utils.reading import parse_yaml
from kanseg.utils.yaml_names import NAMES, quoted_list

E = TypeVar("E")
NUMBERS = ("resize", "crop", "spacing", "mean", "std")  # settings of several numbers


def command_line(description: str = "", prog: str | None = None, *, kind: type):
    """A parser for all settings: `--config FILE`, `--section.key value`, `--print_config`,
    `--help`.
    """
    # Imported here, so that `import kanseg` does not load jsonargparse.
    from kanseg.config.arguments import ToolParser

    parser = ToolParser(description=description, prog=prog)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file of settings; what follows on the command line overrides it.",
    )
    parser.add_class_arguments(kind, None)
    return parser


def with_lists(arguments: Sequence[str], prefix: str = "data.") -> list[str]:
    """Prepare the lists on a command line: names are quoted, numbers in a row are joined.

    Args:
        arguments: of the command line.
        prefix: of the settings of the data; "" for tools whose options they are.
    """
    return _with_joined_numbers(_with_quoted_names(arguments, prefix), prefix)


def _with_quoted_names(arguments: Sequence[str], prefix: str) -> list[str]:
    """Quote the lists of names on a command line, such as `--data.classes [no, yes]`."""
    options = {f"--{prefix}{name}" for name in NAMES}
    result: list[str] = []
    before = ""
    for word in arguments:
        option, sign, value = word.partition("=")
        if sign and option.rstrip("+") in options:
            word = f"{option}={quoted_list(value)}"
        elif before.rstrip("+") in options:
            word = quoted_list(word)
        result.append(word)
        before = word
    return result


def _with_joined_numbers(arguments: Sequence[str], prefix: str) -> list[str]:
    """Join the numbers that follow a setting of several: `--data.resize 256 192` becomes
    `--data.resize [256, 192]`.
    """
    options = {f"--{prefix}{name}" for name in NUMBERS}
    result: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        result.append(word)
        if word not in options:
            continue
        numbers = []
        while words and _is_number(words[0]):
            numbers.append(words.pop(0))
        if len(numbers) > 1:
            result.append(f"[{', '.join(numbers)}]")
        else:
            result += numbers
    return result


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@cache  # building a parser takes longer than reading with it
def _parser(kind: type) -> Any:
    return command_line(kind=kind)


def from_yaml(kind: type[E], text: str) -> E:
    """Read settings from a YAML text; missing keys have their default.

    Raises:
        InputError: unknown keys, wrong types.
    """
    parser = _parser(kind)
    content = parse_yaml(text) or {}
    if not isinstance(content, dict) or any(
        isinstance(part, dict) and "class_path" in part for part in content.values()
    ):
        raise InputError(
            "settings must be `key: value` lines, got {content!r:.80}", content=content
        )
    return _instantiate(parser, parser.parse_object(content), kind)


def parse_config(
    argv: Sequence[str] | None,
    *,
    description: str = "",
    flags: dict[str, str] | None = None,
    kind: type[E] = Config,
) -> tuple[E, dict[str, bool]]:
    """Parse a command line into the settings of the given kind of experiment, and the values of the
    on/off flags (name -> help text).

    Raises:
        InputError: unknown keys (with the nearest known one), wrong types, a missing file.
    """
    parser = command_line(description, kind=kind)
    for name, text in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    try:
        words = sys.argv[1:] if argv is None else argv
        namespace = parser.parse_args(with_lists(words))
    except UnicodeDecodeError as error:
        raise InputError(
            "a config is not UTF-8 text ({reason} at byte {start})",
            reason=error.reason,
            start=error.start,
        ) from None
    return _instantiate(parser, namespace, kind), {
        name: bool(namespace[name]) for name in flags or {}
    }


def _instantiate(parser: Any, namespace: Any, kind: type[E]) -> E:
    for section in ("data", "model", "training"):
        if not hasattr(namespace[section], "__dict__"):
            raise InputError(
                "setting {section!r} must hold `key: value` lines, got {value!r:.80}",
                section=section,
                value=namespace[section],
            )
    parts = parser.instantiate(namespace)
    settings = kind(**{f.name: parts[f.name] for f in fields(kind)})
    _check_given(settings)
    return settings


def _check_given(settings: Any, prefix: str = "") -> None:
    """Raise InputError for a setting that must not be null, such as the last line of a truncated
    file: jsonargparse accepts null for every type.
    """
    hints = get_type_hints(type(settings))
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            _check_given(value, f"{prefix}{f.name}.")
        elif value is None and NoneType not in get_args(hints[f.name]):
            raise InputError("setting {name!r} has no value", name=prefix + f.name)


def known_keys(kind: type, prefix: str = "") -> list[str]:
    """List all settings of a kind of experiment, including sections: data, data.root, ..."""
    keys = []
    for f in fields(kind):
        keys.append(prefix + f.name)
        default = f.default_factory() if callable(f.default_factory) else None
        if is_dataclass(default):
            keys += known_keys(type(default), f"{prefix}{f.name}.")
    return keys
