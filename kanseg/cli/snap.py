"""Replace the learned functions of a network by formulas, and train it on:

kanseg snap --checkpoint runs/quickstart/best --input IMAGES --output runs/snapped --epochs 5

For every learned function, the simplest of a library of formulas c f(a x + b) + d (linear, relu,
silu, tanh, exp, sine, ...) that explains it on the inputs that it gets from the images is listed
with its R^2, and written to formulas.json; functions of polynomials are written out exactly. Where
R^2 reaches --r2, the formula replaces the function. Functions of single edges are listed, the
strongest of each layer, but not replaced. OUTPUT/snapped is the checkpoint; with --epochs it is
trained on in OUTPUT/tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanseg.config.arguments import ToolParser


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint folder, such as runs/quickstart/best"
    )
    parser.add_argument(
        "--input", required=True, help="an image, a folder of images, or a glob pattern in quotes"
    )
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument(
        "--r2", type=float, default=0.99, help="R^2 from which a formula replaces a function"
    )
    parser.add_argument(
        "--max_images", type=int, default=32, help="images to fit the formulas on, evenly spaced"
    )
    parser.add_argument(
        "--epochs", type=int, default=0, help="epochs of training with the formulas; 0 for none"
    )
    parser.add_argument(
        "--lr", type=float, help="its learning rate; by default a tenth of that of the training"
    )
    parser.add_argument("--device", help="torch device; by default a GPU if there is one")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, replace and train, and print what was found."""
    given = _parser().parse_args(arguments)
    from kanseg.explain.formulas import formula_table, words_table
    from kanseg.explain.snap import snap_checkpoint

    snapped = snap_checkpoint(
        Path(given.checkpoint),
        given.input,
        Path(given.output),
        threshold=given.r2,
        max_images=given.max_images,
        epochs=given.epochs,
        lr=given.lr,
        device=given.device,
    )
    print(formula_table(snapped.found))
    print(f"\nfirst layer, {snapped.found[0].layer}:\n{words_table(snapped.found[0])}")
    print(f"\n{snapped.replaced} of {snapped.total} functions are formulas now")
    print(f"checkpoint: {snapped.checkpoint}; formulas: {Path(given.output) / 'formulas.json'}")
