"""Write docs/tutorial.ipynb from docs/tutorial.md: python docs/make_notebook.py"""

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", flags=re.DOTALL | re.MULTILINE)


def make_notebook(markdown: str) -> str:
    """Return the notebook of a page: python blocks and commands become cells that can be run, all
    else is text.
    """
    cells = []
    position = 0
    for block in FENCE.finditer(markdown):
        language, code = block[1], block[2].rstrip("\n")
        if language not in ("python", "bash"):
            continue
        cells.append(_cell("markdown", markdown[position : block.start()]))
        if language == "bash":
            code = "\n".join(f"!{line}" for line in code.splitlines())
        cells.append(_cell("code", code))
        position = block.end()
    cells.append(_cell("markdown", markdown[position:]))
    notebook = {
        "cells": [{"id": f"cell-{i}", **cell} for i, cell in enumerate(cells) if cell["source"]],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str) -> dict:
    cell = {"cell_type": kind, "metadata": {}, "source": text.strip().splitlines(keepends=True)}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


if __name__ == "__main__":
    page = (FOLDER / "tutorial.md").read_text(encoding="utf-8")
    (FOLDER / "tutorial.ipynb").write_text(make_notebook(page), encoding="utf-8")
