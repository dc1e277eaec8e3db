"""An extension of griffe, which makes the API pages: docstrings that are made when a class is
defined, such as those of KANConv1d, 2d and 3d, are read from the class.
"""

from importlib import import_module
from inspect import getdoc

import griffe

MODULES = ("kanseg.layers.kan_conv",)


class MadeDocstrings(griffe.Extension):
    """Gives the classes of MODULES that have no docstring in the source that of the class."""

    def on_class(self, *, cls: griffe.Class, **_options) -> None:
        if cls.docstring is None and cls.module.path in MODULES and cls.name[0] != "_":
            text = getdoc(getattr(import_module(cls.module.path), cls.name))
            options = {"warnings": False}
            cls.docstring = griffe.Docstring(
                text, parent=cls, parser="google", parser_options=options
            )
