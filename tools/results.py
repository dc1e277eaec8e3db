"""The table of finished runs: python tools/results.py runs/* --published configs/published.yaml --output docs/results.md"""

import argparse
import sys
from pathlib import Path

from kanseg.errors import run_tool


def main() -> None:
    """Read the run folders, print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", help="Run folders; those that differ in their seed only share a row.")
    parser.add_argument("--published", help="YAML list of rows to compare with: experiment, published, config, gpu.")
    parser.add_argument("--output", help="Markdown file to write; by default the table is printed.")
    arguments = parser.parse_args()
    from kanseg.benchmark.results import results_page

    page = results_page(arguments.runs, published=arguments.published, command=" ".join(["python tools/results.py", *sys.argv[1:]]))
    if arguments.output:
        Path(arguments.output).write_text(page, encoding="utf-8")
        return
    print(page, end="")


if __name__ == "__main__":
    run_tool(main)
