"""Train a classifier: python tools/train_cls.py --help"""

from kanseg.cli.train import train_classifier
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(train_classifier)
