"""Train a segmentation network: python tools/train_seg.py --config configs/quickstart.yaml
[--section.key value ...]
"""

import sys

from kanseg.cli.train import train_command
from kanseg.config import Config
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(lambda: train_command(sys.argv[1:], kind=Config, description=__doc__))
