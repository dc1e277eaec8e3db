"""Compare variants of an experiment: python tools/compare.py --help"""

from kanseg.cli.compare import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
