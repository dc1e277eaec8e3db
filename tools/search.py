"""Search for good settings of an experiment: python tools/search.py --config configs/X.yaml --space
configs/search/X.yaml --trials 20
"""

import sys

from kanseg.cli.search import search_command
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: search_command(sys.argv[1:], description=__doc__))
