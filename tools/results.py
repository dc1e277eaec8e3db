"""Write a table of finished runs: python tools/results.py --help"""

from kanseg.cli.results import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
