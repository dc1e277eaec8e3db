"""Train a segmentation network: python tools/train_seg.py --config configs/quickstart.yaml
[--section.key value ...]
"""

import sys

from kanseg.config import Config
from kanseg.errors import run_tool
from kanseg.training.command import train_command

if __name__ == "__main__":
    run_tool(lambda: train_command(sys.argv[1:], kind=Config, description=__doc__))
