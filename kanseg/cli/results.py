"""Write a table of finished runs:

kanseg results runs/* --published configs/published.yaml --output docs/results.md
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanseg.config.arguments import ToolParser


def _parser() -> ToolParser:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        help=(
            "run folders, named EXPERIMENT or EXPERIMENT-whatever; those that differ only in their"
            " seed share a row"
        ),
    )
    parser.add_argument(
        "--published", help="YAML list of rows to compare with: experiment, published, config, gpu"
    )
    parser.add_argument("--output", help="Markdown file to write; by default the table is printed")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the run folders, print or write the table."""
    given = _parser().parse_args(arguments)
    from kanseg.experiments.results import results_page

    words = ["kanseg results"]
    words += sorted({f"{Path(run).parent}/*" for run in given.runs})
    for name in ("published", "output"):
        if given[name]:
            words.append(f"--{name} {given[name]}")
    page = results_page(given.runs, published=given.published, command=" ".join(words))
    if given.output:
        Path(given.output).write_text(page, encoding="utf-8")
    else:
        print(page, end="")
