"""Predict masks: python tools/predict.py --help"""

from kanseg.cli.predict import main
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
