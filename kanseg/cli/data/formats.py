"""List what kanseg reads, and the experiments that come with it:

kanseg formats

The layouts of data sets of images with masks and of labeled images, found automatically or named by
data.format, and the built-in configs, which `kanseg train NAME` and `kanseg classify NAME` take.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence

from kanseg.config.arguments import ToolParser
from kanseg.config.builtin import list_configs


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the lists."""
    ToolParser(description=__doc__).parse_args(arguments)
    from kanseg.data.classification.formats import FORMATS
    from kanseg.data.opening import READERS

    masks = {name: _first_line(reader.__module__) for name, reader in READERS.items()}
    _print_list("Images with masks (data.format)", masks)
    print("Labeled images (data.format)")
    print(textwrap.indent(textwrap.fill(", ".join(FORMATS), 98), "  "), end="\n\n")
    configs = {}
    for name, path in list_configs().items():
        comment = path.read_text(encoding="utf-8").partition("\n")[0]
        configs[name] = comment.removeprefix("#").strip()
    _print_list("Built-in configs", configs)


def _first_line(module: str) -> str:
    """The first paragraph of a module's docstring, on one line."""
    return " ".join((sys.modules[module].__doc__ or "").partition("\n\n")[0].split())


def _print_list(title: str, lines: Mapping[str, str]) -> None:
    print(title)
    width = max(map(len, lines))
    for name, text in lines.items():
        indent = " " * (width + 4)
        first = f"  {name:{width}}  {text}".rstrip()
        print(textwrap.fill(first, 100, subsequent_indent=indent))
    print()
