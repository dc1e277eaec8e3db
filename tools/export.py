"""Export a trained network: python tools/export.py --help"""

from kanseg.cli.export import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
