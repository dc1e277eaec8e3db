"""What a network costs, layer by layer: python tools/profile_model.py --name ukanet_18 --basis gram
--input 3x256x256 [--classes 2]

[--options '{"width": 24, "degree": 4}'] [--match params|macs --like '{"basis": "gram"}']
[--encoder] [--device cuda] [--runs 5] [--json FILE]

Prints a table of parameters, multiply-adds, memory kept for backward and time; with --json writes
the same figures.
"""

# Not called profile.py: a tool of that name would be taken for Python's own module `profile` by all
# tools beside it.

import argparse
import json
from pathlib import Path

from kanseg.utils.errors import InputError


def sizes(text: str) -> list[int]:
    return [int(word) for word in text.split("x")]


sizes.__name__ = "size such as 3x256x256"  # what argparse calls it in an error


def mapping(text: str) -> dict[str, object]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


mapping.__name__ = "JSON object"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--name",
        required=True,
        help="one of kanseg.list_models(), or of kanseg.list_encoders() with --encoder",
    )
    parser.add_argument(
        "--basis",
        default="gram",
        help='one of kanseg.list_bases(); "none" for plain convolutions (default: gram)',
    )
    parser.add_argument(
        "--input", type=sizes, default=[3, 256, 256], help="CxHxW or BxCxHxW (default: 3x256x256)"
    )
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument(
        "--options", type=mapping, default={}, help="of the network and the basis, as JSON"
    )
    parser.add_argument(
        "--match", choices=("params", "macs"), help="solve the width for the size of --like"
    )
    parser.add_argument(
        "--like", type=mapping, help="arguments in which the network to be matched differs, as JSON"
    )
    parser.add_argument("--encoder", action="store_true", help="the encoder alone")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--runs", type=int, default=5, help="how often it is timed (default: 5)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    import kanseg
    from kanseg.utils.io import atomic_write_text

    if len(arguments.input) not in (3, 4):
        raise InputError("--input: expected CxHxW or BxCxHxW, such as 3x256x256")
    options = {
        "basis": arguments.basis,
        "match": arguments.match,
        "like": arguments.like,
        **arguments.options,
    }
    try:
        if arguments.encoder:
            model = kanseg.create_encoder(arguments.name, arguments.input[-3], **options)
        else:
            model = kanseg.create_model(
                arguments.name, arguments.input[-3], arguments.classes, **options
            )
        found = kanseg.profile(model.to(arguments.device), arguments.input, runs=arguments.runs)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    print(found)
    if arguments.json is not None:
        atomic_write_text(arguments.json, json.dumps(found.to_dict(), indent=1) + "\n")
        print(f"figures: {arguments.json}")
