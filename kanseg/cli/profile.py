"""Parameters, multiply-adds, memory and time of a network, layer by layer:

python tools/profile_model.py --name ukanet_18 --basis gram --input 3x256x256 [--classes 2]
[--options '{"width": 24, "degree": 4}'] [--match params|macs --like '{"basis": "gram"}']
[--encoder] [--device cuda] [--runs 5] [--json FILE]

python tools/profile_model.py --config configs/glas_unet.yaml

python tools/profile_model.py --checkpoint runs/quickstart/best

Prints a table of parameters, multiply-adds, memory kept for backward and time; with --json writes
the same figures.
"""

# The tool is not called profile.py: all tools beside it would import that instead of Python's own
# module `profile`.

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanseg.config.arguments import ToolParser, output_file
from kanseg.utils.errors import InputError

if TYPE_CHECKING:
    from torch import nn

SIZE = (256, 256)  # of the image, for networks that take any


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "--name", help="one of kanseg.list_models(), or of kanseg.list_encoders() with --encoder"
    )
    parser.add_argument("--config", metavar="FILE", help="settings of a training: its network")
    parser.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="trained network: a checkpoint, a run folder, or a folder of save_pretrained",
    )
    parser.add_argument(
        "--basis",
        default="gram",
        help='one of kanseg.list_bases(); "none" for plain convolutions',
    )
    parser.add_argument(
        "--input", help="CxHxW or BxCxHxW; by default 256x256 pixels, or the network's own size"
    )
    parser.add_argument("--classes", type=int, help="with --name (default: 2) or --config")
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
    if [given.name, given.config, given.checkpoint].count(None) != 2:
        raise InputError("give one of --name, --config and --checkpoint")
    shape = None if given.input is None else _shape(given.input)
    import kanseg
    from kanseg.utils.io import atomic_write_text

    try:
        if given.checkpoint is not None:
            if not Path(given.checkpoint).is_dir():
                raise InputError(f"--checkpoint: {given.checkpoint} is not a folder")
            model = kanseg.from_pretrained(given.checkpoint)
        elif given.config is not None:
            model = _model_of_config(Path(given.config), given.classes)
        else:
            options = {
                "basis": given.basis,
                "match": given.match,
                "like": _plain(given.like),
                **_plain(given.options),
            }
            channels = 3 if shape is None else shape[-3]
            if given.encoder:
                model = kanseg.create_encoder(given.name, channels, **options)
            else:
                model = kanseg.create_model(given.name, channels, given.classes or 2, **options)
        if shape is None:
            kinds = ("model", "classifier", "encoder")
            arguments = next(model.description[k] for k in kinds if k in model.description)
            shape = [arguments["in_channels"], *(arguments.get("image_size") or SIZE)]
        found = kanseg.profile(model.to(given.device), shape, runs=given.runs)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    print(found)
    if target is not None:
        atomic_write_text(target, json.dumps(found.to_dict(), indent=1) + "\n")
        print(f"figures: {given.json}")


def _model_of_config(path: Path, classes: int | None) -> nn.Module:
    """The network of a training, with new weights.

    Its data set is not read: `classes` is the number of logits, by default that of a binary
    data set, or 10 for a classifier.
    """
    from kanseg.inference.description import build_model
    from kanseg.training.run import TASKS
    from kanseg.utils.reading import read_text

    text, errors = read_text(path), []
    for settings, task_class in TASKS.items():
        try:
            task = task_class(settings.from_yaml(text))
            task.check()
        except InputError as error:
            errors.append(error)
            continue
        arguments = task.model_arguments()
        if classes is not None:
            arguments["classes"] = classes
        return build_model(arguments)
    raise InputError(f"{path}: {errors[0]}")


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
