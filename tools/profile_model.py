"""Measure a network, layer by layer: python tools/profile_model.py --help"""

from kanseg.cli.profile import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
