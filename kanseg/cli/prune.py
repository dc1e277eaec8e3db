"""Prune a trained network, and measure what it loses:

kanseg prune --checkpoint runs/mine/best --output runs/mine/pruned --keep 0.5 0.25 0.1
--finetune_epochs 5

Removes the channels, basis branches and functions that contribute least on the training images
(--criterion contribution), or whose weights are smallest (magnitude), until the given shares of the
parameters are left. Each pruned network is a checkpoint for predict, evaluate, export and training.
Prints parameters, multiply-adds, time and score, before and after fine-tuning, and writes them to
curve.json, curve.md and curve.png. The same command continues after an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanseg.config.arguments import ToolParser

CRITERIA = ("contribution", "magnitude")


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint folder, such as runs/quickstart/best"
    )
    parser.add_argument("--output", required=True, help="folder for networks and results")
    parser.add_argument(
        "--keep",
        nargs="+",
        type=float,
        default=[0.5, 0.25, 0.1],
        help="parameters that stay, as shares of all",
    )
    parser.add_argument(
        "--criterion", nargs="+", choices=CRITERIA, default=list(CRITERIA), help="one, or both"
    )
    parser.add_argument(
        "--finetune_epochs",
        type=int,
        default=0,
        help="train each pruned network for so many epochs, with the settings of its training",
    )
    parser.add_argument("--split", default="val", help="split whose scores are compared")
    parser.add_argument(
        "--images", type=int, default=32, help="training images to measure contributions on"
    )
    parser.add_argument("--device", default="cpu", help="torch device of contributions and times")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pruning that a command line describes.

    Raises:
        InputError: a checkpoint or options that cannot be used.
    """
    given = _parser().parse_args(arguments)
    from kanseg.explain.pruning.curve import Request, prune_curve

    request = Request(
        Path(given.checkpoint),
        Path(given.output),
        given.keep,
        given.criterion,
        given.finetune_epochs,
        given.split,
        given.images,
        given.device,
    )
    prune_curve(request)
    return 0
