"""The network under torch.compile."""

from __future__ import annotations

import os
import shutil
import sys

import torch
from torch import nn

from kanseg.utils.errors import InputError

BACKEND = "inductor"
COMPILERS = {
    "darwin": "clang++",
    "win32": "cl",
}  # what inductor calls where CXX is not set; g++ elsewhere


def compile_networks(*networks: nn.Module, device: torch.device) -> None:
    """Compile networks in place: they stay the same objects, and so do the names in their state
    dicts.

    Sizes are taken as constant until a second one comes, and as variable then (torch's default):
    the last, smaller batch of an epoch and images of other sizes cost one more compilation, not
    one each.

    Raises:
        InputError: nothing can be compiled here.
    """
    if BACKEND == "inductor" and device.type == "cpu":
        compiler = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
        if shutil.which(compiler) is None:
            raise InputError(
                f"training.compile needs a C++ compiler on the CPU, and there is no {compiler!r}:"
                " install one, set CXX, or leave compile out"
            )
    try:
        torch.compile(_probe, backend=BACKEND)(torch.ones(8, device=device))
    except (RuntimeError, OSError) as error:  # what the compilers have to say
        raise InputError(
            "training.compile: torch.compile does not work here"
            f" ({' '.join(str(error).split())[:300]}); leave compile out"
        ) from None
    for network in dict.fromkeys(networks):  # each once
        network.compile(backend=BACKEND)


def uncompile_networks(*networks: nn.Module) -> None:
    """Undo `compile_networks`: hooks are not called in a compiled forward pass."""
    for network in networks:
        network._compiled_call_impl = None  # torch has no method for it


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1
