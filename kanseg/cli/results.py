"""The table of finished runs: python tools/results.py runs/* --published configs/published.yaml
--output docs/results.md
"""

import argparse
from pathlib import Path


def main() -> None:
    """Read the run folders, print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "runs",
        nargs="+",
        help=(
            "Run folders, named EXPERIMENT or EXPERIMENT-whatever; those that differ in their seed"
            " only share a row."
        ),
    )
    parser.add_argument(
        "--published", help="YAML list of rows to compare with: experiment, published, config, gpu."
    )
    parser.add_argument("--output", help="Markdown file to write; by default the table is printed.")
    arguments = parser.parse_args()
    from kanseg.experiments.results import results_page

    folders = sorted({f"{Path(run).parent}/*" for run in arguments.runs})
    rest = [
        f"--{name} {value}" for name, value in vars(arguments).items() if name != "runs" and value
    ]
    command = " ".join(["python tools/results.py", *folders, *rest])
    page = results_page(arguments.runs, published=arguments.published, command=command)
    if arguments.output:
        Path(arguments.output).write_text(page, encoding="utf-8")
        return
    print(page, end="")
