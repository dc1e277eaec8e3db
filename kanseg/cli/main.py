"""The command `kanseg`: each verb is a tool."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import kanseg
from kanseg.utils.command import MODULE
from kanseg.utils.errors import InputError, run_tool
from kanseg.utils.registry import nearest

# verb -> (module, its function, what it does)
VERBS = {
    "train": ("train", "train_segmentation", "train a segmentation network"),
    "classify": ("train", "train_classifier", "train a classifier"),
    "check": ("data.check", "main", "find the faults of a data set"),
    "convert": ("data.convert", "main", "write a data set in another format"),
    "formats": ("data.formats", "main", "list the formats of data sets, and the built-in configs"),
    "predict": ("predict", "main", "write masks for images and videos, or a table of classes"),
    "evaluate": ("evaluate", "main", "score a checkpoint on a split"),
    "export": ("export", "main", "write a network as ONNX or torch.export file"),
    "explain": ("explain", "main", "show what a network has learned, and where it looked"),
    "prune": ("prune", "main", "remove what a network can do without"),
    "snap": ("snap", "main", "replace learned functions by formulas"),
    "compare": ("compare", "main", "train variants with several seeds, and compare them"),
    "search": ("search", "main", "search for good settings"),
    "results": ("results", "main", "make a table of finished runs"),
    "profile": ("profile", "main", "measure a network, layer by layer"),
    "benchmark": ("benchmark", "main", "measure time and memory"),
    "doctor": ("doctor", "main", "report versions, devices, memory and what is missing"),
}
USAGE = """usage: {program} VERB [options]

Train, evaluate and deploy segmentation networks built from Kolmogorov-Arnold layers.

{verbs}

{program} VERB --help lists the options of a verb. First steps:

  {program} train quickstart
  {program} predict --checkpoint runs/quickstart/best --input IMAGES --output masks
"""


def main() -> None:
    """Run the verb of the command line, and exit with its code."""
    program = "kanseg"
    if Path(sys.argv[0]).name == "__main__.py":
        program = MODULE
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        run_tool(lambda: print(usage(program), end=""))
    if words[0] in ("-V", "--version"):
        run_tool(lambda: print(f"kanseg {kanseg.__version__}"))
    verb, arguments = words[0], words[1:]
    # The name that help and messages show.
    sys.argv = [f"{program} {verb}", *arguments]
    run_tool(lambda: run(verb, arguments))


def run(verb: str, arguments: Sequence[str]) -> int | None:
    """Call the function of a verb; return its exit code.

    Raises:
        InputError: an unknown verb, or whatever the verb raises.
    """
    if verb not in VERBS:
        raise InputError(
            "there is no verb {verb!r}{hint} (all: kanseg --help)",
            verb=verb,
            hint=nearest(verb, VERBS),
        )
    module, function, _ = VERBS[verb]
    # Imported here, so that `kanseg --help` loads none of them.
    return getattr(import_module(f"kanseg.cli.{module}"), function)(arguments)


def usage(program: str) -> str:
    """Return the text of `kanseg --help`."""
    lines = [f"  {verb:10} {text}" for verb, (_, _, text) in VERBS.items()]
    return USAGE.format(program=program, verbs="\n".join(lines))
