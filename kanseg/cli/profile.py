"""Parameters, multiply-adds, memory and time of a network, layer by layer:

python tools/profile_model.py --name ukanet_18 --basis gram --input 3x256x256 [--classes 2]
[--options '{"width": 24, "degree": 4}'] [--match params|macs --like '{"basis": "gram"}']
[--encoder] [--device cuda] [--runs 5] [--json FILE]

Prints a table of parameters, multiply-adds, memory kept for backward and time; with --json writes
the same figures.
"""

# The tool is not called profile.py: all tools beside it would import that instead of Python's own
# module `profile`.

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kanseg.config.arguments import ToolParser, output_file
from kanseg.utils.errors import InputError


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "--name",
        required=True,
        help="one of kanseg.list_models(), or of kanseg.list_encoders() with --encoder",
    )
    parser.add_argument(
        "--basis",
        default="gram",
        help='one of kanseg.list_bases(); "none" for plain convolutions',
    )
    parser.add_argument("--input", default="3x256x256", help="CxHxW or BxCxHxW")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument(
        "--options",
        type=dict[str, Any],
        default={},
        help="options of the network and the basis, as JSON",
    )
    parser.add_argument(
        "--match", choices=("params", "macs"), help="solve the width for the size of --like"
    )
    parser.add_argument(
        "--like",
        type=dict[str, Any],
        help="arguments in which the network to be matched differs, as JSON",
    )
    parser.add_argument("--encoder", action="store_true", help="measure the encoder alone")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--runs", type=int, default=5, help="how often the network is timed")
    parser.add_argument("--json", metavar="FILE", help="file for all figures")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the network, measure it, and print the table."""
    given = _parser().parse_args(arguments)
    target = output_file(given.json, "--json")
    shape = _shape(given.input)
    import kanseg
    from kanseg.utils.io import atomic_write_text

    options = {
        "basis": given.basis,
        "match": given.match,
        "like": _plain(given.like),
        **_plain(given.options),
    }
    channels = shape[-3]
    try:
        if given.encoder:
            model = kanseg.create_encoder(given.name, channels, **options)
        else:
            model = kanseg.create_model(given.name, channels, given.classes, **options)
        found = kanseg.profile(model.to(given.device), shape, runs=given.runs)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    print(found)
    if target is not None:
        atomic_write_text(target, json.dumps(found.to_dict(), indent=1) + "\n")
        print(f"figures: {given.json}")


def _shape(text: str) -> list[int]:
    try:
        shape = [int(word) for word in text.split("x")]
    except ValueError:
        shape = []
    if len(shape) not in (3, 4):
        raise InputError(f"--input: expected CxHxW or BxCxHxW, such as 3x256x256, got {text!r}")
    return shape


def _plain(value: Any) -> Any:
    """jsonargparse's namespaces as dictionaries."""
    return value.as_dict() if hasattr(value, "as_dict") else value
