"""Measure a checkpoint on a split: python tools/evaluate.py --help"""

from kanseg.cli.evaluate import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
