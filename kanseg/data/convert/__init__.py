"""Write a data set in another layout: `convert`, with one module per layout that is written."""

from kanseg.data.convert.dataset import LAYOUTS, convert

__all__ = ["LAYOUTS", "convert"]
