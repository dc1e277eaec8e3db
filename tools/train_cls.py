"""Train a classifier: python tools/train_cls.py --config configs/mnist_hybrid.yaml [--section.key
value ...]
"""

import sys

from kanseg.cli.train import train_command
from kanseg.config import ClassificationConfig
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: train_command(sys.argv[1:], kind=ClassificationConfig, description=__doc__))
