"""Check a data set: python tools/check_data.py --help"""

from kanseg.cli.data.check import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
