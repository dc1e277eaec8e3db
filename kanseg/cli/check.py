"""Check a data set: python tools/check_data.py FOLDER [--json FILE] [--html FILE] [--strict]
[--skip_cache] [data settings, or --config FILE.yaml]

Looks at every image and mask and reports all faults at once, each with file and reason. Exit code
0: no errors (warnings do not count, unless --strict is given); 2: errors. Nothing is written into
FOLDER. What was seen of a file is kept in the user's cache (KANSEG_CACHE, else
XDG_CACHE_HOME/kanseg/checks, else ~/.cache/kanseg/checks), and files of the same size and time are
not decoded again.

The data settings are those of an experiment (--task, --classes, --mask_values, --train, ...);
--config takes them from its YAML file, and what follows on the command line overrides them.

The file of --json, schema 1:
  schema       1
  root         the folder
  ok           whether there are no errors
  counts       {errors, warnings, codes: {code: number}}
  issues       [{code, severity: "error" or "warning", file: path relative to root ("." for the
               folder itself), reason, samples: names that data.skip_bad would leave out, details:
               {numbers and names, by code}}]
  task, classes, mask_values, ignore_index    how the masks are read; null where it cannot be told
  notes        what was decided without being told
  splits       {train, val, test, other: {names: the splits chosen for it, images, kinds: {kind:
               images}, sizes: [{height, width, images}], mean, std: per channel, of the values
               in [0, 1]; ignored_pixels, classes: [{name, pixels, share of the pixels that are not
               ignored (multilabel: of all) or null, images: that hold it}]}}, over the samples
               without errors; other: images in none of train, val and test
  files        {decoded, from_cache}
  seconds      that it took
Codes (error unless said otherwise):
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from kanseg.utils.errors import InputError

MORE = {
    "json": "file for the report, for programs",
    "html": "file for the report as a page with images",
}
FLAGS = {
    "strict": "warnings are errors",
    "skip_cache": "decode every file, whatever is known of it",
}


def _documentation() -> str:
    from kanseg.data.checks import KINDS

    codes = [
        f"  {code:24} {'warning: ' if kind.severity == 'warning' else ''}{kind.title}"
        for code, kind in KINDS.items()
    ]
    return "\n".join([__doc__.rstrip(), *codes])


def parse(arguments: Sequence[str]) -> tuple[Any, Any]:
    """(the parsed arguments, the data settings)."""
    from jsonargparse import DefaultHelpFormatter

    from kanseg.config import Config, DataConfig
    from kanseg.config.parser import command_line, with_quoted_names

    arguments, config = _config_of(arguments)
    parser = command_line(kind=DataConfig)
    parser.formatter_class = type("Formatter", (_Raw, DefaultHelpFormatter), {})
    parser.description = _documentation() if {"-h", "--help"} & set(arguments) else ""
    parser.add_argument(
        "folder", nargs="?", help="folder of the data set (default: data.root of --config)"
    )
    for name, text in MORE.items():
        parser.add_argument(f"--{name}", type=str, help=text)
    parser.add_argument(
        "--warnings",
        type=int,
        default=10,
        help="most warnings of a kind that are printed; 0 for all",
    )
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    if config is not None:
        parser.set_defaults(asdict(Config.from_yaml(_text(config)).data))
    given = parser.parse_args(with_quoted_names(arguments, prefix=""))
    settings = {f.name: given[f.name] for f in fields(DataConfig)}
    if given.folder is None and config is None:
        raise InputError("give the folder of the data set, or --config FILE.yaml")
    if given.folder is not None:
        settings |= {"root": given.folder, "prepare": None}
    return given, DataConfig(**settings)


class _Raw:
    """Help text with its lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def _config_of(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without --config, and its file."""
    rest, config = [], None
    following = iter(arguments)
    for argument in following:
        name, _, value = argument.partition("=")
        if name != "--config":
            rest.append(argument)
            continue
        config = value or next(following, None)
        if not config:
            raise InputError("--config needs a file")
    return rest, None if config is None else Path(config)


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file (--config)")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def main() -> int:
    given, data = parse(sys.argv[1:])
    from kanseg.data import check_data
    from kanseg.data.checks.page import render_check
    from kanseg.utils.io import atomic_write_text

    targets = {name: Path(given[name]) for name in MORE if given[name]}
    for target in targets.values():
        if target.resolve().is_relative_to(Path(data.root).resolve()):
            raise InputError(
                f"{target} lies in the data folder, into which nothing is written; choose another"
                " place"
            )
    report = check_data(data, everything=True, use_cache=not given.skip_cache)
    print(report.text(warnings=given.warnings))
    makers = {
        "json": lambda: json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n",
        "html": lambda: render_check(report),
    }
    for name, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(target, makers[name]())
        print(f"{name}: {target}")
    return 2 if report.errors or (given.strict and report.warnings) else 0
