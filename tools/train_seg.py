"""Train a segmentation network: python tools/train_seg.py --help"""

from kanseg.cli.train import train_segmentation
from kanseg.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(train_segmentation)
