"""The command-line parser of all tools."""

from __future__ import annotations

import difflib
import os
import re
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_loader

from kanseg.utils.command import with_command
from kanseg.utils.errors import InputError
from kanseg.utils.language import translate
from kanseg.utils.reading import parse_yaml
from kanseg.utils.registry import nearest

# How jsonargparse words an unknown option or key; the group is its name.
UNKNOWN_NAME = (
    r"(?:Key|Option|option) [\"']?(?:--)?([\w.]+)[\"']? is not (?:expected|accepted)",
    r"[Uu]nrecognized arguments: --?([\w.]+)",
    r"Group [\"'][\w.]+[\"'] does not accept option [\"']([\w.]+)[\"']",
)
PRINT_CONFIG = (
    "print all settings as YAML and exit; --print_config=skip_default leaves out those that have"
    " their default"
)
YAML_MODE = "kanseg_yaml"
MAX_MESSAGE = 500  # characters
TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping {key: value}",
    "NoneType": "null",
}
PLURALS = {"int": "integers", "float": "numbers", "str": "names"}


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Shows types and defaults of all options, and keeps the line breaks of the description."""


class ToolParser(ArgumentParser):
    """A jsonargparse parser that raises `InputError`, and accepts hyphens for underscores in
    options.

    Args:
        description: for `--help`.
        renamed: old option -> present option; the old one still works, with a
            DeprecationWarning.
        options: of `jsonargparse.ArgumentParser`.
    """

    def __init__(
        self, *, description: str = "", renamed: Mapping[str, str] | None = None, **options: Any
    ):
        # jsonargparse's own YAML loader does not limit aliases and raises many kinds of errors.
        set_loader(YAML_MODE, _load_yaml, exceptions=(InputError,))
        super().__init__(
            description=with_command(description),
            allow_abbrev=False,
            formatter_class=HelpFormatter,
            parser_mode=YAML_MODE,
            **options,
        )
        self.renamed = dict(renamed or {})

    def parse_args(
        self, args: Sequence[str] | None = None, *rest: Any, **options: Any
    ) -> Namespace:
        """Parse a command line, by default that of the process."""
        words = sys.argv[1:] if args is None else args
        words = [self._present_option(word) for word in words]
        return super().parse_args(words, *rest, **options)

    def _present_option(self, word: str) -> str:
        """`--batch-size=8` -> `--batch_size=8`, and an old name -> the present one. Names with dots
        keep hyphens, since keys can have them.
        """
        name, sign, value = word.partition("=")
        if name.startswith("--") and "." not in name:
            name = "--" + name[2:].replace("-", "_")
        if name in self.renamed:
            old, name = name, self.renamed[name]
            warnings.warn(f"{old} is called {name} now", DeprecationWarning, stacklevel=3)
        return name + sign + value

    def format_help(self) -> str:
        """The text of `--help`."""
        # jsonargparse erases a space of `--print_config[=flags]` by a backspace, which is not
        # printed here.
        return super().format_help().replace(" \b", "")

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """As of jsonargparse, with another help text for `--print_config`."""
        action = super().add_argument(*names, **options)
        if names == ("--print_config",):
            action.help = PRINT_CONFIG
        return action

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Raise `InputError`; a missing option is answered with its help text, an unknown one with
        the nearest known one.
        """
        missing = re.search(r"arguments are required: (\w+)", message)
        for action in self._actions:
            if missing is not None and action.dest == missing.group(1):
                name = "/".join(action.option_strings) or action.dest
                raise InputError(
                    "{name} is required: {help}", name=name, help=action.help or "--help"
                ) from None
        known = self.get_defaults().keys(branches=True)
        raise InputError(_error_message(message, known)) from None


def split_settings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the options of the tool and the settings of the experiment, such as
    `--training.lr 0.1`, `--seed 1` or `--run_dir=runs/x`.
    """
    own: list[str] = []
    settings: list[str] = []
    target = own
    for word in arguments:
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--")
            is_setting = "." in name or name in ("run_dir", "seed", "data", "model", "training")
            target = settings if is_setting else own
        target.append(word)
    return own, settings


def comma_separated(text: str | None) -> list[str]:
    """`a, b` -> ["a", "b"]; an empty list for None."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def integers(text: str, option: str) -> list[int]:
    """`32,64` -> [32, 64].

    Raises:
        InputError: no integers; the message names the option.
    """
    words = comma_separated(text)
    try:
        values = [int(word) for word in words]
    except ValueError:
        values = []
    if not values:
        raise InputError(
            "expected comma-separated integers, got {text!r}",
            text=text,
            where=option,
        )
    return values


def two_numbers(values: Sequence[float] | None, option: str) -> list[float] | None:
    """The value of an option of two numbers, or of one for both.

    Raises:
        InputError: there are more; the message names the option.
    """
    if values is None or len(values) == 2:
        return None if values is None else list(values)
    if len(values) > 2:
        raise InputError(
            "expected one or two numbers, got {count}", count=len(values), where=option
        )
    return [values[0], values[0]]


def refuse_given(parser: ToolParser, given: Any, names: Iterable[str], why: str) -> None:
    """Raise InputError for the first of these options that has another value than its default."""
    for name in names:
        if given[name] != parser.get_default(name):
            raise InputError(f"--{name} {why}; leave it out")


def output_file(path: str | None, option: str) -> Path | None:
    """The path of a file that is written at the end of a command, checked before the work begins.

    Raises:
        InputError: it is a folder, or lies in one that cannot be written to.
    """
    if path is None:
        return None
    target = Path(path)
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            "{path} cannot be written; name a file in a writable folder",
            path=path,
            where=option,
        )
    return target


def _load_yaml(text: str) -> Any:
    """The value of a word of the command line, or of a file of settings."""
    value = parse_yaml(text)
    # `key:` and `{a, b}` are text, not mappings to null.
    if isinstance(value, dict) and value and all(entry is None for entry in value.values()):
        keys = set(text.strip(" {}").replace(" ", "").split(","))
        if text.strip() == f"{next(iter(value))}:" or keys == set(value):
            return text
    return value


def _error_message(message: str, known: Iterable[str]) -> str:
    """The parser's message on one line; for an unknown option with the nearest known one."""
    text = " ".join(re.sub(r"(?m)^\s*- ", "", message).split())
    unknown = re.search("|".join(UNKNOWN_NAME), text)
    if unknown is None:
        return _explain_value(text)[:MAX_MESSAGE]
    name = next(group for group in reversed(unknown.groups()) if group)
    known = list(known)
    hint = nearest(name, known)
    if not hint:
        # The section is missing or wrong: `lr` for `training.lr`.
        by_leaf = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        leaf = difflib.get_close_matches(name.rsplit(".", 1)[-1], by_leaf, n=1)
        if leaf:
            hint = translate("; did you mean {name}?", name=repr(by_leaf[leaf[0]]))
    return translate("unknown setting {name!r}{hint} (all settings: --help)", name=name, hint=hint)


def _explain_value(text: str) -> str:
    """Say in words what was expected in place of a wrong value; other messages stay."""
    found = re.match(r'Parser key "([\w.]+)": (.*)', text)
    if found is None:
        return text
    name, rest = found.groups()
    union = re.search(r"Subtypes: \[(.*)\] Errors: .*Given value: (.*)", rest)
    single = re.match(r"Expected a (.*?)\. Got value: (.*)", rest)
    match = union or single
    if match is None:
        return f"{name}: {rest}"
    types, value = match.groups()
    # Split at the commas between types, not at those inside brackets.
    words = [_type_in_words(each) for each in re.split(r", (?![^\[]*\])", types)]
    wanted = translate(" or ").join(words)
    return f"{name}: " + translate("expected {wanted}, got {shown}", wanted=wanted, shown=value)


def _type_in_words(name: str) -> str:
    """`list[int]` -> "a list of integers", `typing.Literal[1, 2]` -> "one of 1, 2"."""
    choices = re.fullmatch(r"typing\.Literal\[(.*)\]", name)
    if choices is not None:
        return translate("one of {choices}", choices=choices.group(1))
    items = re.fullmatch(r"(?:typing\.)?[Ll]ist\[(\w+)\]", name)
    if items is not None:
        kind = PLURALS.get(items.group(1), items.group(1))
        return translate("a list of {kind}", kind=translate(kind))
    plain = name.removeprefix("<class '").removesuffix("'>")
    return translate(TYPES.get(plain, plain))
