"""Measure time and memory on one CPU thread or a GPU, and list the costs of every network:

python tools/benchmark.py layers [--bases a,b] [--channels 32,64] [--size 64] [--batch 4]
    [--groups 1] [--share edge]
python tools/benchmark.py models [--names ukanet_18,unet] [--bases bspline,gram] [--size 128]
    [--batch 2]
python tools/benchmark.py zoo [--names ukanet_18,unet] [--bases gram] [--size 256]
python tools/benchmark.py loader [--root FOLDER] [--workers 2] [--size 256] [--batch 8]
python tools/benchmark.py predict [--names unet] [--bases gram] [--size 4096] [--tile 512]
    [--overlap 0.5] [--batch 8] [--width 8]

Each prints a table; --json FILE writes its figures. The first two take --against FOLDER, a checkout
of torch-conv-kan, whose layers and networks are measured in the same rounds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from kanseg.config.arguments import ToolParser, comma_separated, integers, output_file

Rows = list[dict[str, Any]]


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    tables = parser.add_subcommands(dest="table", metavar="TABLE")
    for name, (text, add_options, _) in TABLES.items():
        table = ToolParser(description=f"Measure {text}.")
        add_options(table)
        table.add_argument("--json", metavar="FILE", help="file for all figures")
        tables.add_subcommand(name, table, help=text)
    return parser


def _add_layers(parser: ToolParser) -> None:
    parser.add_argument("--bases", metavar="A,B", help="by default all")
    parser.add_argument("--channels", default="32,64", metavar="A,B", help="widths")
    parser.add_argument("--size", type=int, default=64, help="height and width")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument(
        "--share",
        default="edge",
        help="sharing of functions: edge (none), channel, layer, or the number of functions",
    )
    _add_timing(parser, rounds=10)
    _add_comparison(parser)


def _add_models(parser: ToolParser) -> None:
    parser.add_argument("--names", default="ukanet_18,unet", metavar="A,B", help="networks")
    parser.add_argument("--bases", default="bspline,gram", metavar="A,B")
    parser.add_argument("--size", type=int, default=128, help="height and width")
    parser.add_argument("--batch", type=int, default=2)
    _add_timing(parser, rounds=10)
    _add_comparison(parser)


def _add_zoo(parser: ToolParser) -> None:
    parser.add_argument("--names", metavar="A,B", help="by default all models and encoders")
    parser.add_argument("--bases", default="gram", metavar="A,B")
    parser.add_argument("--size", type=int, default=256, help="height and width")


def _add_loader(parser: ToolParser) -> None:
    parser.add_argument("--root", help="folder of a data set; by default images are generated")
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="worker processes; 0 reads in the main process and measures its CPU time",
    )
    parser.add_argument(
        "--size", type=int, default=256, help="height and width that images are resized to"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--limit", type=int, default=200, help="images that are read")
    parser.add_argument("--rounds", type=int, default=5, help="how often each loader reads them")


def _add_predict(parser: ToolParser) -> None:
    parser.add_argument("--names", default="unet", metavar="A,B", help="networks")
    parser.add_argument("--bases", default="gram", metavar="A,B")
    parser.add_argument("--width", type=int, default=8, help="width of the networks")
    parser.add_argument("--size", type=int, default=4096, help="height and width of the image")
    parser.add_argument("--tile", type=int, default=512, help="height and width of the tiles")
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.5,
        help="share of a tile that the next one overlaps",
    )
    parser.add_argument("--batch", type=int, default=8, help="tiles at once")
    _add_timing(parser, rounds=3)


def _add_timing(parser: ToolParser, *, rounds: int) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="half precision by autocast",
    )
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="how often everything is measured"
    )


def _add_comparison(parser: ToolParser) -> None:
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well")
    parser.add_argument(
        "--against",
        metavar="FOLDER",
        help="a checkout of torch-conv-kan to measure in the same rounds",
    )


def _run_layers(given: Any) -> Rows:
    from kanseg.bases import BASES
    from kanseg.benchmark import LayerCase, Setting, layer_rows, layer_table

    setting = Setting(given.device, given.dtype, given.rounds)
    case = LayerCase(given.size, given.batch, given.groups, given.share, given.compile)
    original = _original(given)
    measured = layer_rows(given.bases or list(BASES), given.channels, case, setting, original)
    rows = _collect(measured, ("basis", "channels"))
    print(f"{case}, {setting.dtype}, {setting.rounds} rounds.\n{case.explained}\n")
    print(layer_table(rows, original is not None))
    return rows


def _run_models(given: Any) -> Rows:
    from kanseg.benchmark import ModelCase, Setting, model_rows, model_table
    from kanseg.benchmark.models import EXPLAINED, EXPLAINED_ORIGINAL

    setting = Setting(given.device, given.dtype, given.rounds)
    case = ModelCase(given.size, given.batch, given.compile)
    original = _original(given)
    measured = model_rows(given.names, given.bases, case, setting, original)
    rows = _collect(measured, ("model", "basis", "options"))
    print(f"{case}, {setting.dtype}, {setting.rounds} rounds.")
    print(EXPLAINED if original is None else EXPLAINED + EXPLAINED_ORIGINAL)
    print(f"\n{model_table(rows, original is not None)}")
    return rows


def _run_zoo(given: Any) -> Rows:
    from kanseg.benchmark import zoo_rows, zoo_table
    from kanseg.benchmark.zoo import EXPLAINED

    rows = _collect(zoo_rows(given.names, given.bases, given.size), ("network", "kind", "basis"))
    print(f"x = (1, 3, {given.size}, {given.size}), 2 classes.\n{EXPLAINED}\n")
    print(zoo_table(rows))
    return rows


def _run_loader(given: Any) -> Rows:
    from kanseg.benchmark import LoaderCase, loader_rows, loader_table
    from kanseg.benchmark.loader import EXPLAINED

    case = LoaderCase(given.size, given.batch, given.workers, given.rounds, given.limit)
    rows = loader_rows(given.root, case)
    print(f"{case}, {given.root or 'generated images'}.\n{EXPLAINED}\n")
    print(loader_table(rows))
    return rows


def _run_predict(given: Any) -> Rows:
    from kanseg.benchmark import PredictCase, Setting, predict_rows, predict_table
    from kanseg.benchmark.predict import EXPLAINED

    setting = Setting(given.device, given.dtype, given.rounds)
    case = PredictCase(given.size, given.tile, given.overlap, given.batch)
    measured = predict_rows(given.names, given.bases, case, setting, {"width": given.width})
    rows = _collect(measured, ("model", "basis"))
    print(f"{case}, width {given.width}, {setting.dtype}, {setting.rounds} rounds.\n{EXPLAINED}\n")
    print(predict_table(rows))
    return rows


# name -> (what is measured, adds the options, measures and prints)
TABLES = {
    "layers": (
        "KAN convolutions beside the plain convolution that is their limit",
        _add_layers,
        _run_layers,
    ),
    "models": ("training steps of whole networks", _add_models, _run_models),
    "zoo": ("parameters, multiply-adds and memory of every network", _add_zoo, _run_zoo),
    "loader": (
        "images per second beside bare decoding and resizing",
        _add_loader,
        _run_loader,
    ),
    "predict": (
        "a large image in tiles beside the bare network on the same tiles",
        _add_predict,
        _run_predict,
    ),
}


def _parse_lists(given: Any) -> None:
    """Split comma-separated options, and convert a number of shared functions."""
    for name in ("names", "bases"):
        if name in given:
            given[name] = comma_separated(given[name])
    if "channels" in given:
        given.channels = integers(given.channels, "--channels")
    if "share" in given and given.share.isdecimal():
        given.share = int(given.share)


def _original(given: Any) -> Any | None:
    from kanseg.benchmark import Original

    return None if given.against is None else Original(given.against)


def _collect(rows: Iterator[dict[str, Any]], shown: Sequence[str]) -> Rows:
    """Collect the rows, and log each to stderr, since a table takes minutes."""
    found = []
    for row in rows:
        name = " ".join([str(row[key]) for key in shown])
        sys.stderr.write(f"{name}: measured\n")
        found.append(row)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a table, print it, and write its figures on request."""
    parsed = _parser().parse_args(arguments)
    name = parsed.table
    given = parsed[name]
    _parse_lists(given)
    target = output_file(given.json, "--json")
    import torch

    from kanseg.training.run_folder.logging import plain
    from kanseg.utils.environment import environment_line
    from kanseg.utils.io import atomic_write_text

    torch.set_num_threads(1)
    _, _, run = TABLES[name]
    rows = run(given)
    environment = environment_line(given.get("device", "cpu"))
    print(f"\n{environment}")
    if target is not None:
        options = {"table": name}
        for key, value in given.as_dict().items():
            if key not in ("json", "against"):
                options[key] = value
        figures = plain({"environment": environment, "arguments": options, "rows": rows})
        atomic_write_text(target, json.dumps(figures, indent=1) + "\n")
        print(f"figures: {target}")
