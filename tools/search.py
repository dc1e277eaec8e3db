"""Search for good settings of an experiment: python tools/search.py --help"""

from kanseg.cli.search import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
