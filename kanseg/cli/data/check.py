"""Check a data set:

kanseg check FOLDER [--json FILE] [--html FILE] [--strict] [--skip_cache] [data
settings, or --config FILE.yaml]

Reads every image and mask and reports all problems at once, each with file and reason. Exit code 0
if there are no errors (warnings do not count, unless --strict is given), 2 if there are. Nothing is
written into FOLDER. The facts about a file are kept in the user's cache (KANSEG_CACHE, else
XDG_CACHE_HOME/kanseg/checks, else ~/.cache/kanseg/checks); a file with the same size and time is
not decoded again.

The data settings are those of an experiment (--task, --classes, --mask_values, --train, ...);
--config takes them from its YAML file, and what follows on the command line overrides them.

The file of --json, schema 1:
  schema       1
  root         the folder
  ok           true if there are no errors
  counts       {errors, warnings, codes: {code: number}}
  issues       [{code, severity: "error" or "warning", file: path relative to root ("." for the
               folder itself), reason, samples: names that data.skip_bad would leave out, details:
               {numbers and names, by code}}]; --codes lists the codes
  task, classes, mask_values, ignore_index    how the masks are read; null if it is unknown
  notes        what was decided without being given
  splits       {train, val, test, other: {names: the splits chosen for it, images, kinds: {kind:
               images}, sizes: [{height, width, images}], mean, std: per channel, of the values
               in [0, 1]; ignored_pixels, classes: [{name, pixels, share of the pixels that are not
               ignored (multilabel: of all) or null, images: that hold it}]}}, over the samples
               without errors; other: images in none of train, val and test
  files        {decoded, from_cache}
  seconds      that the check took
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from kanseg.config import Config, DataConfig
from kanseg.config.builtin import find_config
from kanseg.config.parser import command_line, with_lists
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_text


def _parse(arguments: Sequence[str]) -> tuple[Any, DataConfig | None]:
    """The options, and the data settings (None with --codes)."""
    arguments, config = _without_config(arguments)
    # Also as `kanseg train` has them: --data.channels.
    arguments = [re.sub(r"^--data\.", "--", word) for word in arguments]
    parser = command_line(__doc__, kind=DataConfig)
    parser.add_argument(
        "folder", nargs="?", help="folder of the data set; by default data.root of --config"
    )
    parser.add_argument("--json", type=str, metavar="FILE", help="file for the report, as JSON")
    parser.add_argument(
        "--html", type=str, metavar="FILE", help="file for the report, as a page with images"
    )
    parser.add_argument(
        "--warnings",
        type=int,
        default=10,
        help="most warnings of a kind that are printed; 0 for all",
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument(
        "--skip_cache", action="store_true", help="decode every file, also if it is in the cache"
    )
    parser.add_argument(
        "--codes", action="store_true", help="list the codes of all problems, and stop"
    )
    if config is not None:
        parser.set_defaults(asdict(Config.from_yaml(read_text(config)).data))
    given = parser.parse_args(with_lists(arguments, prefix=""))
    if given.codes:
        return given, None
    if given.folder is None and config is None:
        raise InputError("give the folder of the data set, or --config FILE.yaml")
    settings = {field.name: given[field.name] for field in fields(DataConfig)}
    if given.folder is not None:
        settings |= {"root": given.folder, "prepare": None}
    return given, DataConfig(**settings)


def _without_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Split --config FILE from the other arguments: (others, FILE or None)."""
    rest: list[str] = []
    config = None
    words = iter(arguments)
    for word in words:
        name, _, value = word.partition("=")
        if name != "--config":
            rest.append(word)
            continue
        config = value or next(words, None)
        if not config:
            raise InputError("--config needs a file")
    return rest, None if config is None else find_config(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print the report and write the requested files; 2 if there are errors."""
    given, data = _parse(sys.argv[1:] if arguments is None else arguments)
    if data is None:
        from kanseg.data.checks import KINDS

        for code, kind in KINDS.items():
            print(f"{code:26} {kind.severity:8} {kind.title}")
        return 0
    targets = [Path(path) for path in (given.json, given.html) if path]
    for target in targets:
        if target.resolve().is_relative_to(Path(data.root).resolve()):
            raise InputError(
                "{target} is in the data folder, which is read-only here; choose another folder",
                target=target,
            )
    from kanseg.data import check_data
    from kanseg.data.checks.page import render_check

    report = check_data(data, everything=True, use_cache=not given.skip_cache)
    print(report.text(warnings=given.warnings))
    if given.json:
        text = json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"
        _write("json", Path(given.json), text)
    if given.html:
        _write("html", Path(given.html), render_check(report))
    is_bad = report.errors or (given.strict and report.warnings)
    return 2 if is_bad else 0


def _write(name: str, path: Path, text: str) -> None:
    from kanseg.utils.io import atomic_write_text

    atomic_write_text(path, text)
    print(f"{name}: {path}")
