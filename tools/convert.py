"""Write a data set in another layout: python tools/convert.py --help"""

from kanseg.cli.data.convert import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
