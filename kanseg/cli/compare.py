"""Compare variants of an experiment, of one size and each with several seeds:

kanseg compare --config configs/glas_ukanet.yaml --bases gram,bspline,rbf,none --output
runs/compare/glas

kanseg compare --config glas_resnet18_pretrained --bases gram,none --output runs/compare/decoders

kanseg compare --config configs/glas_unet.yaml configs/glas_ukanet.yaml --seeds 0,1,2,3,4
--match macs --output runs/compare/nets

Every setting of the experiment can be given as --section.key value, for all variants;
kanseg train --help lists them. The same command continues after an interruption; started
several times, the processes share the runs.

A study on several data sets, tuned on validation and tested once, has its own options: --study FILE
--help lists them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kanseg.cli import study
from kanseg.config.arguments import ToolParser, comma_separated, integers, split_settings
from kanseg.config.builtin import find_config
from kanseg.utils.errors import InputError

RENAMED = {"--arms": "--variants", "--control": "--baseline"}  # read until version 0.2


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__, renamed=RENAMED)
    parser.add_argument(
        "--config",
        nargs="+",
        required=True,
        help="the experiment, a file or a built-in name; several are a variant each",
    )
    parser.add_argument(
        "--bases", metavar="A,B", help="a variant for each basis, such as gram,bspline,none"
    )
    parser.add_argument(
        "--variants",
        metavar="FILE",
        help="YAML of `name: {section.key: value}`, for variants that differ in something else",
    )
    parser.add_argument(
        "--seeds",
        default="0,1,2",
        metavar="A,B",
        help="seeds of each variant, at least three; with fewer, the table says that they prove"
        " nothing about other seeds",
    )
    parser.add_argument(
        "--match",
        choices=("params", "macs", "none"),
        default="params",
        help="equalize parameters or multiply-adds of all variants, within 2 %",
    )
    parser.add_argument(
        "--reference",
        help="the variant whose width is kept; the widths of the others are solved; by default"
        " the first",
    )
    parser.add_argument(
        "--baseline",
        help="the variant that the others are compared with; by default none (the plain"
        " convolutions), or the reference if there is no variant of this name",
    )
    parser.add_argument(
        "--score",
        help="a column of scores_SPLIT.csv; by default IoU of the foreground, of several classes"
        " mean/iou",
    )
    parser.add_argument(
        "--split", choices=("val", "test"), default="test", help="split whose scores are compared"
    )
    parser.add_argument(
        "--output",
        required=True,
        help="folder for the runs, table.md, table.json, comparison.png and examples.png",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, or with --study the study, that a command line describes.

    Raises:
        InputError: settings, variants or folders that cannot be used.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if any(word.split("=")[0] == "--study" for word in words):
        return study.main(words)
    own, settings = split_settings(words)
    given = _parser().parse_args(own)
    seeds = list(dict.fromkeys(integers(given.seeds, "--seeds")))
    if min(seeds) < 0:
        raise InputError(f"--seeds: expected integers from 0 on, got {given.seeds}")
    from kanseg.experiments.compare.report import write_comparison
    from kanseg.experiments.compare.variants import (
        check_variant,
        has_other_encoder,
        match_sizes,
        read_variants,
        run_variants,
    )

    variants = read_variants(
        [str(find_config(name)) for name in given.config],
        bases=comma_separated(given.bases),
        variants_file=given.variants,
        settings=settings,
    )
    reference = next(iter(variants))
    if given.reference is not None:
        reference = check_variant(given.reference, variants, "--reference")
    baseline = "none" if "none" in variants else reference
    if given.baseline is not None:
        baseline = check_variant(given.baseline, variants, "--baseline")
    if has_other_encoder(variants):
        print(
            "compare: sizes are not matched, since model.encoder has a fixed size; the table lists"
            " the parameters",
            flush=True,
        )
    elif given.match != "none":
        variants = match_sizes(variants, reference, given.match)
    output = Path(given.output)
    run_variants(variants, seeds, output)
    write_comparison(
        variants, seeds, output, baseline=baseline, split=given.split, score=given.score
    )
    return 0
