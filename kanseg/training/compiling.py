"""Compile networks with torch.compile."""

from __future__ import annotations

import os
import shutil
import sys

import torch
from torch import nn

from kanseg.utils.errors import InputError
from kanseg.utils.text import one_line

BACKEND = "inductor"
COMPILERS = {"darwin": "clang++", "win32": "cl"}  # of inductor without CXX; g++ on other systems


def compile_networks(*networks: nn.Module, device: torch.device) -> None:
    """Compile networks in place; the names in their state dicts do not change.

    Sizes are constant until a second size occurs, and variable from then on (torch's default): the
    smaller last batch of an epoch and images of other sizes cost one more compilation in all.

    Raises:
        InputError: torch.compile does not work on this computer.
    """
    if BACKEND == "inductor" and device.type == "cpu":
        compiler = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
        if shutil.which(compiler) is None:
            raise InputError(
                f"training.compile needs a C++ compiler on the CPU, and there is no {compiler!r}:"
                " install one, set CXX, or leave compile out"
            )
    try:
        torch.compile(lambda x: x * 2 + 1, backend=BACKEND)(torch.ones(8, device=device))
    except (RuntimeError, OSError) as error:  # errors of the compilers
        raise InputError(
            f"training.compile: torch.compile does not work here ({one_line(error)}); leave compile"
            " out"
        ) from None
    for network in dict.fromkeys(networks):  # each once
        network.compile(backend=BACKEND)


def uncompile_networks(*networks: nn.Module) -> None:
    """Undo `compile_networks`; a compiled forward pass does not call hooks."""
    for network in networks:
        network._compiled_call_impl = None  # torch has no method for it
