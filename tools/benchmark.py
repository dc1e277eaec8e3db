"""Measure time and memory: python tools/benchmark.py --help"""

from kanseg.cli.benchmark import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
