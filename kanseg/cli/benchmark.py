"""Measure time and memory, one CPU thread or a GPU, and list what every network costs:

python tools/benchmark.py layers [--bases a,b] [--channels 32,64] [--size 64] [--batch 4] [--groups
1] [--share edge] python tools/benchmark.py models [--names ukanet_18,unet] [--bases bspline,gram]
[--size 128] [--batch 2] python tools/benchmark.py zoo [--names ukanet_18,unet] [--bases gram]
[--size 256] [--json FILE] python tools/benchmark.py loader [--root FOLDER] [--workers 2] [--size
256] [--batch 8] [--rounds 5] [--json FILE] python tools/benchmark.py predict [--names unet]
[--bases gram] [--size 4096] [--tile 512] [--overlap 0.5] [--batch 8] [--width 8]

the first two with [--device cpu|cuda] [--dtype float32|bfloat16|float16] [--compile] [--rounds 10]
[--json FILE] [--against FOLDER]. Prints a table; --against FOLDER, a checkout of torch-conv-kan,
measures its layers and networks in the same rounds.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from kanseg.utils.errors import InputError


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


numbers.__name__ = "list of integers"  # what argparse calls it in an error


def share(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def layers(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "layers",
        help="KAN convolutions beside the plain convolution that is their limit",
        allow_abbrev=False,
    )
    parser.add_argument("--bases", type=words, help="comma-separated (default: all)")
    parser.add_argument(
        "--channels", type=numbers, default=[32, 64], help="comma-separated widths (default: 32,64)"
    )
    parser.add_argument("--size", type=int, default=64, help="height and width (default: 64)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument(
        "--share",
        type=share,
        default="edge",
        help="who shares a function: edge (default, nobody), channel, layer, or how many there are",
    )
    parser.set_defaults(run=run_layers)
    return parser


def models(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "models", help="training steps of whole networks", allow_abbrev=False
    )
    parser.add_argument(
        "--names",
        type=words,
        default=["ukanet_18", "unet"],
        help="comma-separated (default: ukanet_18,unet)",
    )
    parser.add_argument(
        "--bases",
        type=words,
        default=["bspline", "gram"],
        help="comma-separated (default: bspline,gram)",
    )
    parser.add_argument("--size", type=int, default=128, help="height and width (default: 128)")
    parser.add_argument("--batch", type=int, default=2)
    parser.set_defaults(run=run_models)
    return parser


def zoo(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "zoo", help="parameters, multiply-adds and memory of every network", allow_abbrev=False
    )
    parser.add_argument(
        "--names", type=words, default=[], help="comma-separated (default: all models and encoders)"
    )
    parser.add_argument(
        "--bases", type=words, default=["gram"], help="comma-separated (default: gram)"
    )
    parser.add_argument("--size", type=int, default=256, help="height and width (default: 256)")
    parser.set_defaults(run=run_zoo, device="cpu")
    return parser


def loader(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "loader", help="images a second beside bare decoding and resizing", allow_abbrev=False
    )
    parser.add_argument("--root", help="folder of a data set (default: images made for it)")
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes that read; 0: CPU time of the main one (default: 2)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=256,
        help="height and width that images are resized to (default: 256)",
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--limit", type=int, default=200, help="images that are read (default: 200)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often all are read by each (default: 5)"
    )
    parser.set_defaults(run=run_loader, device="cpu")
    return parser


def predict(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "predict",
        help="a large image in tiles beside the bare network on the same tiles",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--names", type=words, default=["unet"], help="comma-separated (default: unet)"
    )
    parser.add_argument(
        "--bases", type=words, default=["gram"], help="comma-separated (default: gram)"
    )
    parser.add_argument("--width", type=int, default=8, help="of the networks (default: 8)")
    parser.add_argument(
        "--size", type=int, default=4096, help="height and width of the image (default: 4096)"
    )
    parser.add_argument(
        "--tile", type=int, default=512, help="height and width of the tiles (default: 512)"
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.5,
        help="share of a tile in common with the next one (default: 0.5)",
    )
    parser.add_argument("--batch", type=int, default=8, help="tiles at once (default: 8)")
    clocked(parser, rounds=3)
    parser.set_defaults(run=run_predict)
    return parser


def clocked(table: argparse.ArgumentParser, *, rounds: int) -> None:
    table.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    table.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="half precision by autocast",
    )
    table.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        help=f"how often everything is measured (default: {rounds})",
    )


def timed(table: argparse.ArgumentParser) -> None:
    clocked(table, rounds=10)
    table.add_argument("--compile", action="store_true", help="measure under torch.compile as well")
    table.add_argument(
        "--against",
        metavar="FOLDER",
        help="a checkout of torch-conv-kan to measure in the same rounds",
    )


TIMED = (
    layers,
    models,
)  # a table is a function here that adds its subcommand, and one that measures and prints
OTHERS = (zoo, loader, predict)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="TABLE", dest="table")
    for add in (*TIMED, *OTHERS):
        table = add(commands)
        if add in TIMED:
            timed(table)
        table.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def run_layers(arguments: argparse.Namespace) -> list[dict[str, object]]:
    from kanseg.bases import BASES
    from kanseg.benchmark import LayerCase, Setting, layer_rows, layer_table

    setting = Setting(arguments.device, arguments.dtype, arguments.rounds)
    case = LayerCase(
        arguments.size, arguments.batch, arguments.groups, arguments.share, arguments.compile
    )
    original = against(arguments)
    rows = collect(
        layer_rows(arguments.bases or list(BASES), arguments.channels, case, setting, original),
        ("basis", "channels"),
    )
    print(
        f"{case}, {setting.dtype}, {setting.rounds}"
        f" rounds.\n{case.explained}\n\n{layer_table(rows, original is not None)}"
    )
    return rows


def run_models(arguments: argparse.Namespace) -> list[dict[str, object]]:
    from kanseg.benchmark import ModelCase, Setting, model_rows, model_table
    from kanseg.benchmark.models import EXPLAINED, EXPLAINED_ORIGINAL

    setting = Setting(arguments.device, arguments.dtype, arguments.rounds)
    case = ModelCase(arguments.size, arguments.batch, arguments.compile)
    original = against(arguments)
    rows = collect(
        model_rows(arguments.names, arguments.bases, case, setting, original),
        ("model", "basis", "options"),
    )
    explained = EXPLAINED if original is None else EXPLAINED + EXPLAINED_ORIGINAL
    print(
        f"{case}, {setting.dtype}, {setting.rounds}"
        f" rounds.\n{explained}\n\n{model_table(rows, original is not None)}"
    )
    return rows


def run_zoo(arguments: argparse.Namespace) -> list[dict[str, object]]:
    from kanseg.benchmark import zoo_rows, zoo_table
    from kanseg.benchmark.zoo import EXPLAINED

    rows = collect(
        zoo_rows(arguments.names, arguments.bases, arguments.size), ("network", "kind", "basis")
    )
    print(
        f"x = (1, 3, {arguments.size}, {arguments.size}), 2"
        f" classes.\n{EXPLAINED}\n\n{zoo_table(rows)}"
    )
    return rows


def run_loader(arguments: argparse.Namespace) -> list[dict[str, object]]:
    from kanseg.benchmark import LoaderCase, loader_rows, loader_table
    from kanseg.benchmark.loader import EXPLAINED

    case = LoaderCase(
        arguments.size, arguments.batch, arguments.workers, arguments.rounds, arguments.limit
    )
    rows = loader_rows(arguments.root, case)
    print(f"{case}, {arguments.root or 'images made for it'}.\n{EXPLAINED}\n\n{loader_table(rows)}")
    return rows


def run_predict(arguments: argparse.Namespace) -> list[dict[str, object]]:
    from kanseg.benchmark import PredictCase, Setting, predict_rows, predict_table
    from kanseg.benchmark.predict import EXPLAINED

    setting = Setting(arguments.device, arguments.dtype, arguments.rounds)
    case = PredictCase(arguments.size, arguments.tile, arguments.overlap, arguments.batch)
    rows = collect(
        predict_rows(arguments.names, arguments.bases, case, setting, {"width": arguments.width}),
        ("model", "basis"),
    )
    print(
        f"{case}, width {arguments.width}, {setting.dtype}, {setting.rounds}"
        f" rounds.\n{EXPLAINED}\n\n{predict_table(rows)}"
    )
    return rows


def against(arguments: argparse.Namespace) -> object | None:
    from kanseg.benchmark import Original

    return None if arguments.against is None else Original(arguments.against)


def collect(rows: Iterator[dict[str, object]], shown: tuple[str, ...]) -> list[dict[str, object]]:
    """All of them; each is announced on stderr as it comes, since a table takes minutes."""
    found = []
    for row in rows:
        sys.stderr.write(f"{' '.join(str(row[key]) for key in shown)}: measured\n")
        found.append(row)
    return found


def main() -> None:
    arguments = parse()
    import torch

    from kanseg.benchmark import environment_line
    from kanseg.training.run_folder.logging import plain
    from kanseg.utils.io import atomic_write_text

    if arguments.json is not None and (
        arguments.json.is_dir() or not arguments.json.parent.is_dir()
    ):
        raise InputError(f"--json {arguments.json}: expected a file in a folder that exists")
    torch.set_num_threads(1)
    run: Callable[[argparse.Namespace], list[dict[str, object]]] = arguments.run
    rows = run(arguments)
    machine = environment_line(arguments.device)
    print(f"\n{machine}")
    if arguments.json is not None:
        given = {
            key: value
            for key, value in vars(arguments).items()
            if key not in ("run", "json", "against")
        }
        atomic_write_text(
            arguments.json,
            json.dumps(plain({"machine": machine, "arguments": given, "rows": rows}), indent=1)
            + "\n",
        )
        print(f"figures: {arguments.json}")
